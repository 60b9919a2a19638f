from itertools import product

import numpy as np
import pytest

from hf_mpq.search.allocators.knapsack import Knapsack, best_exchange, fitting_moves


def instance(seed, units=7, choices=3):
    random = np.random.default_rng(seed)
    cost = np.sort(random.integers(0, 100, (units, choices)).astype(float), axis=1)
    score = -np.sort(-random.lognormal(0, 1.5, (units, choices)), axis=1)
    return Knapsack(cost, score), cost.max(axis=1).sum() * random.uniform(0.2, 0.9)


def best_of_all(knapsack, limit):
    choices = [np.array(choice) for choice in product(range(knapsack.cost.shape[1]), repeat=len(knapsack.cost))]
    return min(knapsack.total_score(c) for c in choices if knapsack.total_cost(c) <= limit)


@pytest.mark.parametrize("seed", range(20))
def test_close_to_the_best_of_all_and_the_bound_holds(seed):
    knapsack, limit = instance(seed)
    limit = max(limit, knapsack.total_cost(knapsack.cheapest))
    choice, best = knapsack.solve(limit), best_of_all(knapsack, limit)
    bound, multiplier = knapsack.bound(limit)
    assert knapsack.total_cost(choice) <= limit
    assert bound <= best * (1 + 1e-9) and multiplier >= 0
    assert best <= knapsack.total_score(choice) * (1 + 1e-9) <= 1.1 * best


@pytest.mark.parametrize("seed", range(5))
def test_the_gap_of_many_units_is_tiny_and_nothing_fits_any_more(seed):
    knapsack, limit = instance(seed, units=2000, choices=4)
    choice = knapsack.solve(limit)
    bound, _ = knapsack.bound(limit)
    assert knapsack.total_score(choice) - bound <= 1e-3 * bound
    price, gain = knapsack.moves(choice)
    assert not ((gain > 0) & (price <= limit - knapsack.total_cost(choice))).any()


def test_dominated_and_forbidden_choices_are_never_taken():
    cost = np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    knapsack = Knapsack(cost, np.array([[5.0, 6.0, 1.0], [np.inf, 3.0, np.inf]]))
    assert knapsack.solve(1.0).tolist() == [0, 1]
    assert knapsack.solve(100.0).tolist() == [2, 1]


def test_of_equally_cheap_choices_the_best_is_free():
    assert Knapsack(np.zeros((1, 3)), np.array([[3.0, 1.0, 2.0]])).solve(0.0).tolist() == [1]


def test_choices_off_the_hull_fill_the_slack():
    knapsack = Knapsack(np.array([[0.0, 5.0, 8.0]]), np.array([[10.0, 6.0, 0.0]]))
    assert knapsack.solve(7.0).tolist() == [1]


def test_an_exchange_beats_what_no_single_move_reaches():
    cost, score = np.array([[0.0, 2.0], [0.0, 3.0]]), np.array([[5.0, 0.0], [6.0, 0.0]])
    knapsack = Knapsack(cost, score)
    assert knapsack.solve(3.0).tolist() == [0, 1]
    price, gain = knapsack.moves(np.array([1, 0]))
    assert best_exchange(price, gain, 1.0) == ((0, 0), (1, 1))
    assert best_exchange(price, gain, 0.5) is None


def test_fitting_moves_take_the_best_rate_first_and_one_per_unit():
    price, gain = np.array([[0.0, 1.0, 2.0], [0.0, 2.0, 3.0]]), np.array([[0.0, 1.0, 3.0], [0.0, 8.0, 9.0]])
    assert [array.tolist() for array in fitting_moves(price, gain, 4.0)] == [[1, 0], [1, 2]]
    assert [array.tolist() for array in fitting_moves(price, gain, 3.0)] == [[1], [1]]
    assert [array.tolist() for array in fitting_moves(price, gain, 0.5)] == [[], []]


def test_no_units_are_no_problem():
    knapsack = Knapsack(np.zeros((0, 1)), np.zeros((0, 1)))
    assert len(knapsack.solve(1.0)) == 0 and knapsack.bound(1.0) == (0.0, 0.0)
