"""The search in both directions beside all assignments that there are."""

import copy
from itertools import product

import numpy as np
import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import Assignment, BudgetError, MatrixAssignment
from hf_mpq.cost import AverageBits, StoredSize
from hf_mpq.plugin.space import space_of
from hf_mpq.search import ALLOCATORS, Judge
from hf_mpq.search.allocators.levels import normalised
from hf_mpq.search.scorers import mean_divergence
from tests.tiny import VOCABULARY, tiny_model

BITS = (2, 3, 4)
HELD = {"key": {"bits": 3}}


def average(space):
    """The mean bits of the open matrices' precisions, with those of the held one."""
    specs = [spec for spec in space.weights.values() if spec.role == "encoder"]
    sizes = np.array([spec.layout.numel[0] for spec in specs if spec.bits is None])
    held = sum(np.dot(spec.layout.numel, spec.bits) for spec in specs if spec.bits is not None)
    return lambda bits: float(np.dot(sizes, bits) + held) / sum(sum(spec.layout.numel) for spec in specs)


OPEN = [pytest.param({}, id="all open", marks=pytest.mark.full), pytest.param(HELD, id="one held")]


@pytest.fixture(scope="module", params=OPEN)
def everything(request):
    """Space of an encoder with six open matrices, or five, and the measured damage of its 729 or 243 assignments."""
    plain = tiny_model("bert", num_hidden_layers=1, num_labels=8)
    parts = {"gate": "sampled", "quantizer": "lsq", "activation_bits": None}
    config = MPQConfig(bits=BITS, groups="matrix", rules=request.param, **parts)
    model = hf_mpq.quantize(copy.deepcopy(plain), config)
    ids = torch.randint(3, VOCABULARY, (32, 11), generator=torch.Generator().manual_seed(3))
    space, kept = space_of(model), []
    judge = Judge(model, lambda live: mean_divergence(plain, live, [{"input_ids": ids}], kept))
    names = [name for name, spec in space.weights.items() if spec.bits is None]
    assert len(names) == (5 if request.param else 6)
    found = {}
    for bits in product(BITS, repeat=len(names)):
        chosen = dict(zip(names, bits))
        assignment = Assignment(
            {
                name: MatrixAssignment(spec.bits or (chosen[name],) * spec.layout.count)
                for name, spec in space.weights.items()
            }
        )
        found[bits] = judge.damage(assignment)
    return space, lambda assignment: found[tuple(assignment.matrices[name].bits[0] for name in names)], found


@pytest.mark.parametrize("options", [{}, {"start": 4}, {"measured": 4}], ids=str)
@pytest.mark.parametrize("limit", [2.2, 2.5, 2.75, 3.0, 3.4])
def test_it_is_within_a_tenth_of_the_best_and_never_above_the_limit(limit, options, everything):
    space, damage, every = everything
    cost, seen = AverageBits(space), []
    spent = average(space)
    best = min(one for bits, one in every.items() if spent(bits) <= limit * (1 + 1e-9))

    def evaluate(assignment):
        seen.append(assignment)
        return damage(assignment)

    search = ALLOCATORS["bidirectional"](**options)
    found = search(space, cost, f"{limit}bits", None, evaluate)
    assert cost.of(found) <= limit * (1 + 1e-9)
    assert damage(found) <= 1.1 * best
    assert len(seen) < len(every) / 2 and len({str(one.to_dict()) for one in seen}) == len(seen), "each once"


def test_without_patience_it_stops_where_the_budget_is_met(everything):
    """The paper's search by hand: of all moves of a step that of the least damage and cost together."""
    space, damage, every = everything
    cost, limit, place = AverageBits(space), 3.4, (4,) * len(next(iter(every)))
    spent = average(space)
    been = {place}
    while spent(place) > limit:
        moves = [
            (*place[:k], place[k] + step, *place[k + 1 :])
            for k in range(len(place))
            for step in (-1, 1)
            if place[k] + step in BITS
        ]
        moves = [one for one in moves if one not in been]
        damages, costs = (np.array([value(one) for one in moves]) for value in (every.__getitem__, spent))
        scale = lambda values: (values - values.min()) / np.ptp(values)  # noqa: E731
        place = moves[int((1.5 * scale(damages) + scale(costs)).argmin())]
        been.add(place)
    assert len(been) > 3
    found = ALLOCATORS["bidirectional"](start=4, patience=0)(space, cost, f"{limit}bits", None, damage)
    assert tuple(one.bits[0] for name, one in found.matrices.items() if space.weights[name].bits is None) == place


def test_where_only_the_smallest_fits_nothing_is_measured(everything):
    space, _, _ = everything
    cost = AverageBits(space)
    low = {name: MatrixAssignment(spec.bits or (2,) * spec.layout.count) for name, spec in space.weights.items()}
    least = cost.of(Assignment(low))

    def evaluate(assignment):
        raise AssertionError("there is nothing to choose")

    found = ALLOCATORS["bidirectional"](start=4)(space, cost, f"{least + 0.01}bits", None, evaluate)
    assert found == Assignment(low)


def test_moves_that_are_equal_are_all_zero():
    assert normalised(np.array([2.0, 2.0, 2.0])).tolist() == [0, 0, 0]
    assert normalised(np.array([2.0, 4.0, 3.0])).tolist() == [0, 1, 0.5]
    assert normalised(np.array([])).tolist() == []


def test_damage_that_says_nothing_leads_down_to_the_budget(make_space):
    space = make_space(2, BITS)
    found = ALLOCATORS["bidirectional"]()(space, StoredSize(space), "5.5kB", None, lambda assignment: 1.0)
    assert 2750 < StoredSize(space).of(found) <= 5500
    assert all(len(set(one.bits)) == 1 for one in found.matrices.values()), "whole matrices move"


def test_what_scores_forbid_is_not_taken(make_space):
    space = make_space(2, BITS)
    scores = {name: np.zeros((2, 3)) for name in space.weights}
    scores["down"][1, 0] = np.inf
    damage = lambda assignment: sum(4.0**-bits for one in assignment.matrices.values() for bits in one.bits)  # noqa: E731
    found = ALLOCATORS["bidirectional"]()(space, AverageBits(space), "2.2bits", scores, damage)
    assert set(found.matrices["up"].bits + found.matrices["beside"].bits) == {2} and found.matrices["down"].bits == (
        2,
        3,
    )
    with pytest.raises(BudgetError, match="smallest possible"):
        ALLOCATORS["bidirectional"]()(space, AverageBits(space), "2.1bits", scores, damage)


@pytest.mark.parametrize("options, words", [({"measured": 0}, "at least 1"), ({"patience": -1}, "steps from 0")])
def test_impossible_options(options, words):
    with pytest.raises(ValueError, match=words):
        ALLOCATORS["bidirectional"](**options)
