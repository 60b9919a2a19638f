"""Several limits at once: every allocator keeps them, and says what cannot be met."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from hf_mpq.core import ActivationSpec, BudgetError, PrecisionSpace, SubgroupLayout, WeightSpec
from hf_mpq.cost import COSTS, ActivationBytes, AverageBits, BitOperations, Limit, StoredSize
from hf_mpq.search import ALLOCATORS
from hf_mpq.search.allocators import relax, solve
from hf_mpq.search.allocators.units import Units


def total(space, scores, assignment) -> float:
    columns = {name: np.searchsorted(space.weights[name].candidates, assignment.matrices[name].bits) for name in scores}
    return float(sum(np.take_along_axis(scores[name], columns[name][:, None], 1).sum() for name in scores))


def uneven(made):
    """Matrices of equal bytes whose products differ: `up` is called four times."""
    weights = {name: replace(one, activation=ActivationSpec(bits=8)) for name, one in made.weights.items()}
    return replace(made, weights={**weights, "up": replace(weights["up"], calls=4)})


@pytest.fixture
def space(make_space):
    return uneven(make_space(6, (0, 2, 3, 4, 8)))


def limits_that_bind(space, scores, share=0.8):
    """Bytes, and fewer bit operations than the best choice within these bytes takes."""
    size, work = StoredSize(space), BitOperations(space, 16)
    best = solve(space, size, 7e3, scores).assignment
    return Limit(size, 7e3), Limit(work, share * work.of(best))


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("name", list(ALLOCATORS))
def test_every_allocator_keeps_two_limits(name, order, space, make_scores):
    scores = make_scores(space)
    limits = limits_that_bind(space, scores)[::order]
    evaluate = lambda assignment: total(space, scores, assignment)  # noqa: E731
    found = ALLOCATORS[name]().choose(space, limits, scores, evaluate)
    used = [limit.cost.of(found) / limit.amount for limit in limits]
    assert max(used) <= 1 + 1e-9
    assert max(used) > 0.5, "most of one of them is used"
    again = ALLOCATORS[name]()(space, limits[0].cost, list(limits), scores, evaluate)
    assert again == found, "written and parsed limits are one"


@pytest.mark.parametrize("name", list(ALLOCATORS))
def test_what_cannot_be_met_is_named_with_how_much_is_missing(name, make_space, make_scores):
    space = uneven(make_space(6, (2, 4, 8)))
    scores, size = make_scores(space), StoredSize(space)
    evaluate = lambda assignment: total(space, scores, assignment)  # noqa: E731
    least = ActivationBytes(space, 16).of(Units(space, scores).assignment(np.zeros(18, int)))
    message = (
        rf"budget of 100 bytes of activations cannot be met.*possible is {least:,.0f} bytes, {least - 100:,.0f} bytes"
    )
    with pytest.raises(BudgetError, match=message):
        ALLOCATORS[name]().choose(space, (Limit(size, 9e3), Limit(ActivationBytes(space, 16), 100.0)), scores, evaluate)


@pytest.mark.parametrize("name", list(ALLOCATORS))
def test_activations_are_saved_by_pruning_what_they_come_from(name, space, make_scores):
    if name == "sorted-layers":
        pytest.skip("it prunes nothing")
    scores, cost = make_scores(space), ActivationBytes(space, 16)
    evaluate = lambda assignment: total(space, scores, assignment)  # noqa: E731
    full, least = 16 * (4 * 64 + 96 + 64), 16 * (4 * 64 + 64)
    for limit in (full - 16 * 16, least):
        found = ALLOCATORS[name]().choose(space, (Limit(StoredSize(space), 9e3), Limit(cost, limit)), scores, evaluate)
        assert least <= cost.of(found) <= limit


def test_limits_that_exclude_each_other_are_both_named(make_scores):
    """What is small in one is large in the other: columns that are read anyway, against a price on keeping few."""
    spec = WeightSpec(SubgroupLayout((64, 64), 4), (2, 8), floats=dict.fromkeys(range(1, 9), 1))
    space = PrecisionSpace({"only": spec})

    class Against(AverageBits):
        def of_matrices(self, matrices):
            return 10 - super().of_matrices(matrices)

        def table(self, name, live_columns=None):
            return -super().table(name, live_columns)

    limits = Limit(AverageBits(space), 3.0), Limit(Against(space), 3.0)
    with pytest.raises(BudgetError, match=r"3 bits and 3 bits cannot be met together: .* bits more"):
        ALLOCATORS["greedy"]().choose(space, limits, make_scores(space))


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_the_relaxation_is_close_to_the_program(seed, share, make_space, make_scores):
    space = uneven(make_space(12, (0, 2, 3, 4, 8)))
    scores = make_scores(space, seed)
    limits = limits_that_bind(space, scores, share)
    found = relax(space, limits, scores)
    exact = ALLOCATORS["milp"](gap=1e-4, time_limit=3).choose(space, limits, scores)
    assert found.score == pytest.approx(total(space, scores, found.assignment))
    assert found.costs == tuple(limit.cost.of(found.assignment) for limit in limits)
    assert total(space, scores, exact) * (1 - 1e-9) <= found.score <= 1.02 * total(space, scores, exact)


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_holds_for_the_best_of_all(seed, make_space, make_scores):
    space = replace(make_space(2, (0, 2, 4)), links=())
    space = replace(space, weights={**space.weights, "up": replace(space.weights["up"], calls=4)})
    scores, units = make_scores(space, seed), Units(space, make_scores(space, seed))
    bits, work = AverageBits(space), BitOperations(space, 16)
    limits = Limit(bits, 2.5), Limit(work, 0.8 * work.of(solve(space, bits, 2.5, scores).assignment))
    every = (units.assignment(np.array(choice)) for choice in product(range(3), repeat=6))
    kept = [one for one in every if all(limit.cost.of(one) <= limit.amount for limit in limits)]
    best = min(total(space, scores, one) for one in kept)
    found = relax(space, limits, scores)
    assert found.bound <= best * (1 + 1e-9) and best * (1 - 1e-9) <= found.score <= 1.3 * best


def test_a_limit_that_does_not_bind_changes_nothing(space, make_scores):
    scores, size = make_scores(space), StoredSize(space)
    alone = solve(space, size, "7kB", scores)
    loose = [Limit(COSTS["activations"](space), 1e9), Limit(BitOperations(space), 1e15)]
    for limits in (["7kB", *loose], [*loose, "7kB"]):
        found = solve(space, size, limits, scores)
        assert found.assignment == alone.assignment and found.bound == alone.bound
