"""Searches within several limits, on a tiny model: decisions, penalties and what is logged."""

import numpy as np
import pytest
import torch

import hf_mpq
from hf_mpq.core import BudgetError, Usage
from hf_mpq.cost import AverageBits, BitOperations
from hf_mpq.nn import usages
from hf_mpq.search import ALLOCATORS
from hf_mpq.search.strategies import PENALTIES, STRATEGIES, GateSearch, Progress

SEARCHES = [name for name in STRATEGIES if issubclass(STRATEGIES[name], GateSearch)]
INPUTS = {
    "8 bits": (8, "0.24x"),
    "open": ((4, 8), "0.16x"),
    "open, tied": ((4, 8), "0.16x"),
    "as weights": ("weights", "0.12x"),
}
"""Inputs at 8 bits are a quarter of float ones, and less than that by pruning alone."""
TIES = {r"\.\d+\.(.+)$": {"tie": r"\1"}}
"""Matrices alike by their place in a layer, as schemes need: all their combinations are tried."""


@pytest.fixture
def case(request, make_case):
    name = getattr(request, "param", "8 bits")
    bits, share = INPUTS[name]
    rules = TIES if name == "open, tied" else {}
    return make_case(f"2.5bits + activations:{share}@1x16", activation_bits=bits, attention_bits=8, rules=rules)


def used(case, assignment):
    return [limit.cost.of(assignment) / limit.amount for limit in case.limits]


@pytest.mark.parametrize("case", ["8 bits", "open"], indirect=True)
@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_is_projected_into_all_limits(case, name):
    """Also where the gates want the highest precisions."""
    strategy = case.strategy(name, decision="projection")
    strategy.prepare(case.model, case.scores() if strategy.needs_scores else None)
    for gate in case.gates().values():
        with torch.no_grad():
            gate.logits.copy_(torch.arange(gate.logits.shape[1]) + 0.1 * torch.randn(gate.logits.shape))
    model, found = strategy.derive(case.model)
    hf_mpq.fix(model, found)
    bits, inputs = used(case, hf_mpq.assignment_of(model))
    assert 0.8 < inputs <= 1 and 0.5 < bits <= 1


def coarseness(assignment):
    """Damage that is least with the most bits."""
    return -float(sum(sum(matrix.bits) for matrix in assignment.matrices.values()))


OPEN = [(name, "open, tied" if name == "schemes" else "open") for name in ALLOCATORS]


@pytest.mark.parametrize("name, case", [*OPEN, ("lagrangian", "as weights")], indirect=["case"])
def test_every_allocator_keeps_all_limits_of_a_model(case, name):
    scores = case.scores()
    for key, one in case.space.open_choices.items():
        scores.setdefault(key, 4.0 ** -np.array([one.candidates], float).repeat(one.groups, 0))
    try:
        found = ALLOCATORS[name]().choose(case.space, case.limits, scores, coarseness)
    except BudgetError as error:
        assert name == "sorted-layers" and "activations cannot be met by whole layers" in str(error), (
            "it prunes nothing"
        )
        return
    hf_mpq.fix(case.model, found)
    assert max(used(case, hf_mpq.assignment_of(case.model))) <= 1


@pytest.mark.parametrize("limits", [(0.5, 0.9), (3.0, 0.1), (0.5, 0.1)], ids=["first", "second", "both"])
@pytest.mark.parametrize("name", list(PENALTIES))
def test_penalties_add_up_and_their_gradients_are_right(make_space, name, limits):
    space = make_space(groups=4, candidates=(0, 2, 4))
    logits = {key: torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for key in space.weights}
    bits, work = AverageBits(space), BitOperations(space, 16)
    whole = float(work.float_bops) / 8
    pairs = [(bits, limits[0]), (work, limits[1] * whole)]
    make = lambda given: STRATEGIES["joint"](space, given, penalty=name, penalty_options={"strength": 2.0})  # noqa: E731
    both, alone = make(pairs), [make([pair]) for pair in pairs]

    def expected(parts):
        probabilities = {key: torch.softmax(part, 1) for key, part in zip(logits, parts)}
        steps = torch.tensor([0.0, 2.0, 4.0], dtype=torch.float64)
        return {key: Usage(p @ steps, 1 - p[:, 0], p) for key, p in probabilities.items()}

    progress = Progress(7, 20, 10, 2)
    penalty = lambda *parts: both.penalty(expected(parts), progress)  # noqa: E731
    assert torch.autograd.gradcheck(penalty, tuple(logits.values()), eps=1e-6, atol=1e-7)
    each = [float(one.penalty(expected(logits.values()), progress).detach()) for one in alone]
    if name in ("log-band", "signed-excess"):  # beside another limit nothing is pulled up
        over = [one._decided_cost(one.limits[0], expected(logits.values())) > one.limits[0].amount for one in alone]
        each = [value * exceeded for value, exceeded in zip(each, over)]
    assert float(penalty(*logits.values()).detach()) == pytest.approx(sum(each))
    assert any(each)


def test_logs_have_every_limit(case):
    strategy = case.strategy("joint")
    strategy.prepare(case.model, case.scores())
    found = strategy.metrics(case.model)
    costs = [limit.cost for limit in case.limits]
    assert [cost.what for cost in costs] == ["bits", "activations"]
    for cost in costs:
        assert found[f"expected_cost/{cost.what}"] == pytest.approx(float(cost.expected(usages(case.model)).detach()))
        assert f"cost/{cost.what}" in found
    assert found["cost"] == found["cost/bits"] and found["expected_cost"] == found["expected_cost/bits"]


@pytest.mark.parametrize("name", SEARCHES)
def test_what_no_projection_can_meet_is_said_before_the_search(make_case, name):
    case = make_case("3bits + activations:0.1x", bits=(2, 4), activation_bits=8)
    strategy = case.strategy(name, decision="projection", start="zeros")
    with pytest.raises(BudgetError, match=r"bytes of activations cannot be met; the smallest possible is .* more"):
        strategy.prepare(case.model)
