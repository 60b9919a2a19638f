"""Allocators choose bits of inputs, too, where the cost counts them."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from hf_mpq.core import ActivationSpec, Assignment, MatrixAssignment, PrecisionSpace, input_of
from hf_mpq.cost import BitOperations, Energy, Limit, StoredSize
from hf_mpq.search import ALLOCATORS
from hf_mpq.search.allocators import solve_program

INPUTS = (2, 4, 8)
OPEN = ActivationSpec(bits=8, candidates=INPUTS)
FOLLOWING = ActivationSpec(bits=8, candidates=(2, 4, 8), follows=True)
HELD = {"schemes", "sorted-layers", "threshold"}
"""Allocators that leave inputs at their highest candidate."""


@pytest.fixture
def make_open(make_space, make_scores):
    """A space with open inputs, with scores of all."""

    def make(activation=OPEN, **fields):
        weights = make_space(**{"groups": 1, "candidates": (2, 4, 8), **fields}).weights
        space = PrecisionSpace({name: replace(spec, activation=activation) for name, spec in weights.items()})
        random = np.random.default_rng(1)
        inputs = {
            name: random.lognormal(0, 1, (1, 1)) * 300 * 4.0 ** -np.array([INPUTS])
            for name in space.open_choices
            if name not in space.weights
        }
        return space, {**make_scores(space), **inputs}

    return make


def damage_of(space, scores):
    """Total score of an assignment."""

    def damage(assignment) -> float:
        total = 0.0
        for name, spec in space.weights.items():
            places = [spec.candidates.index(bits) for bits in assignment.matrices[name].bits]
            total += float(scores[name][np.arange(len(places)), places].sum())
            if input_of(name) in scores:
                total += float(scores[input_of(name)][0, INPUTS.index(assignment.activation_bits[name])])
        return total

    return damage


def every_assignment(space):
    for choice in product(*(product(spec.candidates, INPUTS) for spec in space.weights.values())):
        pairs = dict(zip(space.weights, choice))
        matrices = {name: MatrixAssignment((bits,)) for name, (bits, _) in pairs.items()}
        yield Assignment(matrices, {name: bits for name, (_, bits) in pairs.items()})


COSTS = {"bops": lambda space: BitOperations(space, 8), "energy": lambda space: Energy(space, 8)}


@pytest.mark.parametrize("kind", COSTS)
@pytest.mark.parametrize("name", list(ALLOCATORS))
def test_contract(name, kind, make_open):
    """The exact budget is kept, and most of it is used."""
    space, scores = make_open(groups=4)
    cost, damage = COSTS[kind](space), damage_of(space, scores)
    highest = Assignment({key: MatrixAssignment((8,) * 4) for key in space.weights}, dict.fromkeys(space.weights, 8))
    limit = (0.45 if kind == "bops" else 0.9) * cost.of(highest)
    first, again = (ALLOCATORS[name]()(space, cost, limit, scores, damage) for _ in range(2))
    assert first.to_dict() == again.to_dict()
    assert 0.5 * limit <= cost.of(first) <= limit * (1 + 1e-9)
    assert set(first.activation_bits) == set(space.weights)
    assert (set(first.activation_bits.values()) == {8}) == (name in HELD)


@pytest.mark.parametrize("name", list(ALLOCATORS))
def test_inputs_that_the_budget_does_not_count_have_their_highest(name, make_open):
    space, scores = make_open(groups=4)
    found = ALLOCATORS[name]()(space, StoredSize(space), "9kB", scores, damage_of(space, scores))
    assert set(found.activation_bits.values()) == {8}


@pytest.mark.parametrize("name", list(ALLOCATORS))
def test_inputs_without_scores_have_their_highest(name, make_open):
    """Where the allocator reads scores, and there are some."""
    space, scores = make_open(groups=4)
    weights = {key: scores[key] for key in space.weights}
    cost = BitOperations(space, 8)
    found = ALLOCATORS[name]()(space, cost, 7e6, weights, damage_of(space, weights))
    assert cost.of(found) <= 7e6
    if ALLOCATORS[name].reads_scores:
        assert set(found.activation_bits.values()) == {8}


@pytest.mark.parametrize("kind", COSTS)
@pytest.mark.parametrize("share", [0.15, 0.3, 0.5, 0.8])
def test_near_the_best_of_all_729(share, kind, make_open):
    space, scores = make_open()
    cost, damage = COSTS[kind](space), damage_of(space, scores)
    every = [(cost.of(one), damage(one)) for one in every_assignment(space)]
    assert len(every) == 729
    least, most = min(spent for spent, _ in every), max(spent for spent, _ in every)
    limit = least + share * (most - least)
    best = min(hurt for spent, hurt in every if spent <= limit)
    found = {name: ALLOCATORS[name]()(space, cost, limit, scores) for name in ("lagrangian", "greedy", "milp")}
    hurts = {name: damage(one) for name, one in found.items()}
    assert all(cost.of(one) <= limit * (1 + 1e-9) for one in found.values())
    assert hurts["lagrangian"] <= 1.1 * best and hurts["milp"] <= 1.1 * best, (hurts, best)
    assert hurts["greedy"] <= 1.5 * best, (hurts, best)


def test_several_limits(make_open):
    space, scores = make_open(groups=4)
    bops, size = BitOperations(space, 8), StoredSize(space)
    found = solve_program(space, size, ["12kB", Limit(bops, 5e6)], scores).assignment
    assert size.of(found) <= 12e3 and bops.of(found) <= 5e6
    alone = solve_program(space, size, "12kB", scores).assignment
    assert set(alone.activation_bits.values()) == {8} != set(found.activation_bits.values())


def test_tied_matrices_have_inputs_alike(make_open):
    space, scores = make_open(groups=4)
    tied = ("up", "beside")
    weights = {key: replace(spec, tie="one") if key in tied else spec for key, spec in space.weights.items()}
    space = PrecisionSpace(weights)
    scores[input_of("up")] = scores[input_of("up")] * 1e3
    found = ALLOCATORS["lagrangian"]()(space, BitOperations(space, 8), 7e6, scores)
    assert found.matrices["up"] == found.matrices["beside"]
    assert found.activation_bits["up"] == found.activation_bits["beside"] == 8 > found.activation_bits["down"]


@pytest.mark.parametrize("name", list(ALLOCATORS))
def test_inputs_that_follow_have_the_highest_of_their_matrix(name, make_open):
    space, scores = make_open(FOLLOWING, groups=4, candidates=(0, 2, 3, 8))
    cost = BitOperations(space, 8)
    found = ALLOCATORS[name]()(space, cost, 6e6, scores, damage_of(space, scores))
    assert cost.of(found) <= 6e6
    for key, matrix in found.matrices.items():
        assert found.activation_bits[key] == {0: 2, 2: 2, 3: 4, 8: 8}[max(matrix.bits)]
