from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from hf_mpq.core import Assignment, BudgetError, MatrixAssignment, PrecisionSpace
from hf_mpq.cost import AverageBits, BitOperations, PaperSize, StoredSize, float_bytes
from hf_mpq.search import ALLOCATORS
from hf_mpq.search.allocators import allocate, solve


def score_of(assignment, scores, space):
    return sum(
        scores[name][group, space.weights[name].candidates.index(bits)]
        for name, matrix in assignment.matrices.items() if name in scores
        for group, bits in enumerate(matrix.bits)
    )  # fmt: skip


def assembled(space, bits):
    bits, matrices = list(bits), {}
    for name, spec in space.weights.items():
        matrices[name] = MatrixAssignment(tuple(bits.pop(0) for _ in range(spec.layout.count)))
    return Assignment(matrices)


def every_assignment(space):
    choices = [spec.candidates for spec in space.weights.values() for _ in range(spec.layout.count)]
    return [assembled(space, bits) for bits in product(*choices)]


def single_moves(space, assignment):
    for name, matrix in assignment.matrices.items():
        for group, bits in product(range(len(matrix.bits)), space.weights[name].candidates):
            moved = replace(matrix, bits=matrix.bits[:group] + (bits,) + matrix.bits[group + 1 :])
            yield replace(assignment, matrices=assignment.matrices | {name: moved})


@pytest.fixture(scope="module")
def enumerated():
    return {}


@pytest.mark.parametrize("budget", ["2.5kB", "3.5kB", "5kB", "1.3bits", "3bits", "0.08x"])
@pytest.mark.parametrize("seed", range(6))
def test_within_the_budget_and_close_to_the_best_of_all(make_space, make_scores, enumerated, budget, seed):
    space = make_space()
    scores, cost = make_scores(space, seed), AverageBits(space) if budget.endswith("bits") else StoredSize(space)
    result = solve(space, StoredSize(space), budget, scores)
    if budget not in enumerated:
        enumerated[budget] = [(a, cost.of(a)) for a in every_assignment(space)]
    best = min(score_of(a, scores, space) for a, spent in enumerated[budget] if spent <= result.limit)
    assert result.cost == cost.of(result.assignment) <= result.limit * (1 + 1e-9)
    assert result.score == pytest.approx(score_of(result.assignment, scores, space))
    assert best <= result.score * (1 + 1e-9) and result.score <= 1.25 * best
