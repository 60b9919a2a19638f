"""How good the allocators' assignments are, and that the fast costs inside them are the exact ones."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from hf_mpq.core import ActivationSpec, BudgetError, PrecisionSpace
from hf_mpq.cost import COSTS, AverageBits, BitOperations, LatencyTable, Limit, StoredSize
from hf_mpq.search import ALLOCATORS
from hf_mpq.search.allocators import ranked_candidates, solve, solve_program
from hf_mpq.search.allocators.units import Units

TABLE = LatencyTable(10.0, 8.0, ((1, 6.0), (96, 10.0)), ((1, 7.0), (4, 10.0)), 1)
SIZES = {"0 to 4": (0, 2, 4), "2 to 8": (2, 3, 4, 8)}


def total(space, scores, assignment) -> float:
    columns = {name: np.searchsorted(space.weights[name].candidates, assignment.matrices[name].bits) for name in scores}
    return float(sum(np.take_along_axis(scores[name], columns[name][:, None], 1).sum() for name in scores))


def choices_of(units):
    counts = np.isfinite(units.score).sum(axis=1)
    return (np.array(choice) for choice in product(*map(range, counts)))


def single_moves(units, choice):
    for unit, target in product(range(len(choice)), range(units.score.shape[1])):
        moved = choice.copy()
        moved[unit] = target
        if np.isfinite(units.score[unit, target]):
            yield moved


def choice_of(units, assignment):
    bits = np.concatenate([assignment.matrices[names[0]].bits for names, _ in units.blocks])
    return (units.candidates == bits[:, None]).argmax(axis=1)


@pytest.mark.parametrize("name", list(COSTS))
def test_the_costs_inside_are_those_of_the_assignment(name, make_space, make_scores):
    space = make_space(5, (0, 2, 3, 8), other_bytes=100, norm_parameters=20, encoder_norm_parameters=10)
    weights = dict(space.weights)
    weights["down"] = replace(weights["down"], mask="n:m", mask_options={"kept": 1}, affine=("scale",), rank=2)
    weights["beside"] = replace(weights["beside"], tie="one", nested=(2, 3, 8))
    weights["twin"] = replace(weights["beside"], bias=False)
    weights["fixed"] = replace(space.weights["beside"], bits=(0, 0, 2, 4, 8), role="embedding", candidates=(0, 2, 4, 8))
    weights = {name: replace(spec, activation=ActivationSpec()) for name, spec in weights.items()}
    space = replace(space, weights=weights)
    options = {"table": TABLE} if name == "latency" else {}
    cost, units, random = COSTS[name](space, **options), Units(space, make_scores(space)), np.random.default_rng(0)
    for _ in range(20):
        choice = random.integers(0, 4, len(units.score))
        choice[random.random(len(choice)) < 0.3] = 0
        assert cost.of_matrices(units.matrices(choice)) == cost.of(units.assignment(choice))


@pytest.mark.parametrize("candidates", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_the_program_finds_the_optimum_of_linear_costs(seed, candidates, make_space, make_scores):
    space = replace(make_space(2, candidates), links=())
    cost, scores = AverageBits(space), make_scores(space, seed)
    units = Units(space, scores)
    every = [
        (units.score[np.arange(6), choice].sum(), cost.of(units.assignment(choice))) for choice in choices_of(units)
    ]
    for budget in (2.3, 2.9, 3.6):
        best = min(score for score, spent in every if spent <= budget)
        found = solve_program(space, cost, f"{budget}bits", scores, gap=0)
        assert found.score == pytest.approx(best, rel=1e-9) == total(space, scores, found.assignment)
        assert found.bound <= best * (1 + 1e-6)
        for name in ("lagrangian", "greedy"):
            other = ALLOCATORS[name]()(space, cost, f"{budget}bits", scores)
            assert total(space, scores, other) >= best * (1 - 1e-9)


@pytest.mark.parametrize("budget", ["2.5kB", "5kB"])
@pytest.mark.parametrize("seed", range(3))
def test_the_program_is_never_worse_than_the_relaxation(seed, budget, make_space, make_scores):
    space = make_space(8, (0, 2, 3, 4, 8))
    scores = make_scores(space, seed)
    found = solve_program(space, StoredSize(space), budget, scores, gap=1e-6, time_limit=5)
    assert found.score <= solve(space, StoredSize(space), budget, scores).score * (1 + 1e-9)
    assert found.costs[0] == StoredSize(space).of(found.assignment) <= found.limits[0]


def test_one_format_per_matrix_is_the_best_of_whole_matrices(make_space, make_scores):
    space = make_space(32, (2, 3, 4, 8))
    cost, scores = StoredSize(space), make_scores(space)
    units = Units(space, scores)
    whole = [np.repeat(choice, units.sizes) for choice in product(range(4), repeat=3)]
    for budget in (6e3, 8e3, 12e3):
        best = min(
            units.score[np.arange(96), choice].sum() for choice in whole if cost.of(units.assignment(choice)) <= budget
        )
        found = solve_program(space, cost, budget, scores, formats=1, gap=0)
        assert found.score == pytest.approx(best)


@pytest.mark.parametrize("formats", [1, 2])
def test_formats_count_precisions_above_zero(formats, make_space, make_scores):
    space = make_space(8, (0, 2, 3, 4, 8))
    scores = make_scores(space)
    found = solve_program(space, StoredSize(space), "4kB", scores, formats=formats, time_limit=5)
    counts = [len(set(matrix.bits) - {0}) for matrix in found.assignment.matrices.values()]
    assert max(counts) == formats and found.costs[0] <= 4000
    assert any(0 in matrix.bits for matrix in found.assignment.matrices.values())


def test_no_single_move_fits_two_limits(make_space, make_scores):
    space = make_space(8, (0, 2, 4, 8))
    size, work, scores = StoredSize(space), BitOperations(space, 16), make_scores(space)
    found = solve_program(space, size, ["6kB", Limit(work, 1.2e7)], scores)
    assert found.costs == (size.of(found.assignment), work.of(found.assignment))
    assert found.costs[0] <= 6000 and found.costs[1] <= 1.2e7
    units = Units(space, scores)
    for moved in single_moves(units, choice_of(units, found.assignment)):
        assignment = units.assignment(moved)
        better = total(space, scores, assignment) < found.score * (1 - 1e-9)
        assert not better or size.of(assignment) > 6000 or work.of(assignment) > 1.2e7


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"limits": [("work", 10.0)]}, r"10 bops cannot be met; the smallest possible is [\d.e+]+ GBOPs"),
        ({"limits": [], "budget": 100.0}, r"100 bytes cannot be met; the smallest possible is [\d,]+ bytes"),
    ],
)
def test_limits_that_cannot_be_met(fields, message, make_space, make_scores):
    space = make_space(4, (2, 4))
    limits = [Limit(BitOperations(space, 16), limit) for _, limit in fields["limits"]]
    with pytest.raises(BudgetError, match=message):
        solve_program(space, StoredSize(space), [fields.get("budget", 9e3), *limits], make_scores(space))


@pytest.mark.parametrize("direction", ["down", "up"])
def test_greedy_leaves_no_move_that_fits(direction, make_space, make_scores):
    space = make_space(8, (0, 2, 4, 8))
    cost, scores = StoredSize(space), make_scores(space)
    units = Units(space, scores)
    found = ALLOCATORS["greedy"](direction=direction)(space, cost, "4kB", scores)
    for moved in single_moves(units, choice_of(units, found)):
        better = total(space, scores, units.assignment(moved)) < total(space, scores, found) * (1 - 1e-9)
        assert not better or cost.of(units.assignment(moved)) > 4000


@pytest.mark.parametrize("seed", range(3))
def test_uniform_at_a_fraction_fills_the_budget(seed, make_space):
    space = make_space(16, (0, 2, 3, 4, 8))
    cost = StoredSize(space)
    units = Units(space, {name: np.zeros((16, 5)) for name in space.weights})
    for budget in (5e3, 6.3e3, 7.7e3):
        found = ALLOCATORS["uniform"](fraction=True, seed=seed)(space, cost, budget)
        choice = choice_of(units, found)
        low, high = units.candidates[0][np.unique(choice)]
        raised = [m for m in single_moves(units, choice) if (m > choice).any() and m.max() == choice.max()]
        assert {low, high} in ({2, 3}, {3, 4}, {4, 8}) and cost.of(found) <= budget
        assert all(cost.of(units.assignment(moved)) > budget for moved in raised)


@pytest.mark.parametrize("step", [0.05, 0.1])
def test_the_threshold_search_keeps_its_number_of_evaluations(step, make_space, make_scores):
    space = make_space(12, (0, 1, 2, 4))
    cost, scores, seen = StoredSize(space), make_scores(space), []

    def evaluate(assignment):
        seen.append(assignment)
        return total(space, scores, assignment)

    found = ALLOCATORS["threshold"](first_drop=1.0, step=step)(space, cost, "3.5kB", scores, evaluate)
    assert 0 < len(seen) <= 3 / step
    assert 3500 - 96 / 12 * 64 / 8 * 4 < cost.of(found) <= 3500, "less than one sub-group is left over"


def test_ranking_without_pruning_looks_at_every_combination(make_spec, make_scores):
    parts = {f"layer.{n}.{part}": make_spec((32, 32), 2, (2, 3, 4, 8)) for n in range(3) for part in "abc"}
    space = PrecisionSpace(parts)
    cost, scores, units = StoredSize(space), make_scores(space), Units(space, make_scores(space))
    kinds = np.tile(np.repeat(np.arange(3), 2), 3)
    every = [np.array(one)[kinds] for one in product(range(4), repeat=3)]
    truth = sorted(
        units.score[np.arange(18), choice].sum() for choice in every if cost.of(units.assignment(choice)) <= 5500
    )
    found = ranked_candidates(space, cost, 5500.0, scores, keep=4)
    assert [value for _, value in found] == pytest.approx(truth[:4])
    sampled = [ranked_candidates(space, cost, 5500.0, scores, combinations=20, seed=3) for _ in range(2)]
    assert sampled[0] == sampled[1] and sampled[0][0][1] >= truth[0] * (1 - 1e-9)


def test_results_say_what_they_are_in_a_line(make_space, make_scores):
    space = make_space(8)
    scores = make_scores(space)
    line = "24 sub-groups, 5,000.00 of 5,000.00 bytes, gap 2.03%"
    assert str(solve(space, StoredSize(space), "5kB", scores)) == line
    found = str(solve_program(space, StoredSize(space), "5kB + 2.5bits", scores))
    assert " of 5,000.00 bytes and " in found and " of 2.50 bits, gap " in found and found.endswith("%")
