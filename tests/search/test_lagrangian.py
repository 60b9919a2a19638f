from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from hf_mpq.core import Assignment, BudgetError, MatrixAssignment, PrecisionSpace
from hf_mpq.cost import AverageBits, BitOperations, PaperSize, StoredSize, float_bytes
from hf_mpq.search import ALLOCATORS
from hf_mpq.search.allocators import allocate, solve

SEEDS = range(6)


def score_of(assignment, scores, space):
    column = {name: {bits: k for k, bits in enumerate(spec.candidates)} for name, spec in space.weights.items()}
    return sum(
        table[group, column[name][bits]]
        for name, table in scores.items()
        for group, bits in enumerate(assignment.matrices[name].bits)
    )


def every_assignment(space):
    counts = [spec.layout.count for spec in space.weights.values()]
    for bits in product(*(spec.candidates for spec in space.weights.values() for _ in range(spec.layout.count))):
        parts = np.split(np.array(bits), np.cumsum(counts)[:-1])
        yield Assignment({name: MatrixAssignment(tuple(p.tolist())) for name, p in zip(space.weights, parts)})


def single_moves(space, assignment):
    for name, matrix in assignment.matrices.items():
        for group, bits in product(range(len(matrix.bits)), space.weights[name].candidates):
            moved = replace(matrix, bits=(*matrix.bits[:group], bits, *matrix.bits[group + 1 :]))
            yield replace(assignment, matrices=assignment.matrices | {name: moved})


@pytest.mark.parametrize("links, worst, mean", [(False, 1.25, 1.05), (True, 1.6, 1.15)], ids=["alone", "linked"])
@pytest.mark.parametrize("budget", ["2kB", "3.5kB", "5kB", "1.3bits"])
def test_close_to_the_best_of_all(make_space, make_scores, budget, links, worst, mean):
    space = make_space() if links else replace(make_space(), links=())
    cost = AverageBits(space) if budget.endswith("bits") else StoredSize(space)
    known = [(assignment, cost.of(assignment)) for assignment in every_assignment(space)]
    ratios = []
    for seed in SEEDS:
        scores = make_scores(space, seed)
        result = solve(space, StoredSize(space), budget, scores)
        best = min(score_of(assignment, scores, space) for assignment, spent in known if spent <= result.limit)
        ratios.append(result.score / best)
    assert min(ratios) >= 1 - 1e-9 and max(ratios) <= worst and np.mean(ratios) <= mean


@pytest.mark.parametrize("budget", ["2.5kB", "5kB", "1.3bits", "3bits", "encoder:0.1x"])
@pytest.mark.parametrize("groups", [2, 5])
def test_the_budget_is_kept_and_no_single_move_fits(make_space, make_scores, budget, groups):
    space = make_space(groups, (0, 2, 3, 4, 8))
    cost = AverageBits(space) if budget.endswith("bits") else StoredSize(space)
    for seed in SEEDS:
        scores = make_scores(space, seed)
        result = solve(space, StoredSize(space), budget, scores)
        assert result.cost == cost.of(result.assignment) <= result.limit * (1 + 1e-9)
        assert result.score == pytest.approx(score_of(result.assignment, scores, space))
        assert 0 <= result.gap < 1 and result.multiplier >= 0
        for moved in single_moves(space, result.assignment):
            better = score_of(moved, scores, space) < result.score * (1 - 1e-9)
            assert not better or cost.of(moved) > result.limit


def test_dead_columns_are_spent_on_other_weights(make_space, make_scores):
    linked, alone = make_space(groups=16), replace(make_space(groups=16), links=())
    scores = make_scores(linked)
    assert solve(linked, StoredSize(linked), "2kB", scores).score < solve(alone, StoredSize(alone), "2kB", scores).score


@pytest.mark.parametrize("candidates", [(0, 2, 4), (2, 4, 8)])
def test_a_thousand_sub_groups_leave_a_small_gap(make_space, make_scores, candidates):
    space = make_space(groups=96, candidates=candidates)
    space = PrecisionSpace({f"{i}.{name}": spec for i in range(4) for name, spec in space.weights.items()})
    result = solve(space, AverageBits(space), "2.5bits", make_scores(space))
    assert result.gap < 2e-3
    assert result.limit - result.cost < 64 * 2 / AverageBits(space).weights * 4


def test_fixed_bits_take_part_with_their_cost(make_space, make_scores):
    space = make_space()
    weights = dict(space.weights)
    weights["beside"] = replace(weights["beside"], bits=(8, 8), candidates=(8,), role="embedding")
    space = replace(space, weights=weights)
    scores = make_scores(space)
    assignment = allocate(space, StoredSize(space), "7kB", scores)
    assert "beside" not in scores and assignment.matrices["beside"].bits == (8, 8)
    assert StoredSize(space).of(assignment) <= 7000
    encoder = solve(space, StoredSize(space), "encoder:2.9kB", scores)
    assert encoder.cost == StoredSize(space, "encoder").of(encoder.assignment) <= 2900


def test_ties_get_equal_bits(make_space, make_scores):
    space = make_space(groups=4)
    tied = {name: replace(spec, tie="both" if name != "beside" else None) for name, spec in space.weights.items()}
    space = replace(space, weights=tied)
    scores = make_scores(space)
    result = solve(space, StoredSize(space), "4kB", scores)
    assert result.assignment.matrices["up"].bits == result.assignment.matrices["down"].bits
    assert result.score == pytest.approx(score_of(result.assignment, scores, space))
    wrong = replace(space, weights=tied | {"up": replace(tied["up"], candidates=(2, 4))})
    with pytest.raises(ValueError, match=r"tied matrices need equal candidates.*up, down"):
        allocate(wrong, StoredSize(space), "4kB", scores)


def test_matrices_may_have_different_candidates(make_space, make_spec, make_scores):
    space = make_space()
    space = replace(space, weights=space.weights | {"more": make_spec((64, 64), 3, (2, 3, 4, 8), nested=(2, 3, 4, 8))})
    assignment = allocate(space, StoredSize(space), "10kB", make_scores(space))
    assert set(assignment.matrices["up"].bits) <= {0, 2, 4}
    assert assignment.matrices["more"] == MatrixAssignment((8, 8, 8), nested=(2, 3, 4, 8))


def test_infinite_scores_are_never_chosen(make_space, make_scores):
    space = make_space()
    scores = make_scores(space)
    scores["up"][:, [0, 2]] = np.inf
    assert allocate(space, StoredSize(space), "6kB", scores).matrices["up"].bits == (2, 2)


def test_scores_may_be_tensors(make_space, make_scores):
    space = make_space()
    scores = make_scores(space)
    tensors = {name: torch.tensor(table, requires_grad=True) for name, table in scores.items()}
    cost = StoredSize(space)
    assert allocate(space, cost, "4kB", tensors) == allocate(space, cost, "4kB", scores)


@pytest.mark.parametrize(
    "model, budget, limit",
    [
        (StoredSize, "0.1x", None),
        (PaperSize, "encoder:4KiB", 4 / 1024),
        (BitOperations, 2e7, 2e7),
        (AverageBits, 2.0, 2.0),
    ],
)
def test_every_kind_of_budget(make_space, make_scores, model, budget, limit):
    space = make_space(groups=16)
    result = solve(space, model(space), budget, make_scores(space))
    assert result.limit == (float_bytes(space) * 0.1 if limit is None else limit)
    assert 0.8 * result.limit < result.cost <= result.limit * (1 + 1e-9)
    assert result.unit == model.unit


def test_the_activation_bits_and_masks_of_the_specs_are_in_the_result(make_space, make_scores):
    space = make_space()
    weights = {name: replace(spec, mask="n:m", mask_options={"kept": 1}) for name, spec in space.weights.items()}
    assignment = allocate(replace(space, weights=weights), StoredSize(space), "5kB", make_scores(space))
    assert assignment.matrices["up"].keep_of == (1, 4)


def test_the_registry_runs_it(make_space, make_scores):
    space = make_space()
    found = ALLOCATORS["lagrangian"]()(space, StoredSize(space), "1MB", make_scores(space), evaluate=None)
    assert {bits for matrix in found.matrices.values() for bits in matrix.bits} == {4}


def test_a_space_without_open_choices(make_space):
    space = make_space()
    fixed = {name: replace(spec, bits=(4, 4)) for name, spec in space.weights.items()}
    result = solve(replace(space, weights=fixed), StoredSize(space), "1MB", {})
    assert (result.score, result.gap) == (0.0, 0.0)
    with pytest.raises(BudgetError, match="smallest possible"):
        solve(replace(space, weights=fixed), StoredSize(replace(space, weights=fixed)), "1kB", {})


@pytest.mark.parametrize(
    "budget, message",
    [
        ("100bytes", r"the budget of 100 bytes cannot be met; the smallest possible is 280 bytes"),
        ("8ms", "give the cost model 'latency'"),
        ("a lot", "cannot read"),
    ],
)
def test_budgets_that_cannot_be_met(make_space, make_scores, budget, message):
    space = make_space()
    with pytest.raises(BudgetError, match=message):
        allocate(space, StoredSize(space), budget, make_scores(space))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda scores: None, "needs scores"),
        (lambda scores: {}, "no scores for 'up'"),
        (lambda scores: scores | {"up": np.zeros((2, 2))}, r"'up' have the shape \(2, 2\).*\(2, 3\)"),
        (lambda scores: scores | {"up": np.full((2, 3), np.nan)}, "'up' must not be NaN"),
        (lambda scores: scores | {"up": np.full((2, 3), np.inf)}, "needs a finite one"),
    ],
)
def test_bad_scores_are_refused(make_space, make_scores, change, message):
    space = make_space()
    with pytest.raises(ValueError, match=message):
        allocate(space, StoredSize(space), "5kB", change(make_scores(space)))
