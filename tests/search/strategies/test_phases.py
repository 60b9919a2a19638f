"""FDQ's phases: which groups each step updates, and where the penalty alone leads learned steps."""

import pytest

from hf_mpq.nn import usages
from hf_mpq.nn.walk import matrices
from hf_mpq.search.strategies.phases import EVERYTHING, WEIGHTS_ALONE
from hf_mpq.training.stage.relative_adam import RelativeAdam

RANGED = {"bits": tuple(range(2, 9)), "quantizer": "learned-range", "gate": "learned-range"}


def due(case, at_step, steps=60, **options):
    strategy = case.strategy("phases", **options)
    return [k + 1 for k in range(steps) if strategy.passes(at_step(k, steps=steps)) == (EVERYTHING,)]


def test_quantizers_are_due_every_so_many_steps_after_the_first_phase(make_case, at_step):
    case = make_case(**RANGED)
    assert due(case, at_step) == [20, 40, 60]
    assert due(case, at_step, warmup=0.4) == [40, 60] and due(case, at_step, warmup=0.4, every=7) == [
        28,
        35,
        42,
        49,
        56,
    ]
    assert due(case, at_step, every=1) == list(range(1, 61))
    strategy = case.strategy("phases")
    assert strategy.passes(at_step(0)) == strategy.passes(at_step(20)) == (WEIGHTS_ALONE,)
    assert WEIGHTS_ALONE.updates == {"weights"} and not WEIGHTS_ALONE.penalised
    assert EVERYTHING.updates == {"weights", "quantizers", "gates"} and EVERYTHING.penalised
    with pytest.raises(ValueError, match="a whole number of at least 1; got 0"):
        case.strategy("phases", every=0)


def test_the_penalty_leads_learned_steps_into_the_budget(make_case, at_step):
    """With the strategy's rate, from 6 bits; the result meets it exactly, and few sub-groups are moved for that."""
    case = make_case(budget="3.4bits", **RANGED)
    strategy = case.strategy("phases")
    strategy.prepare(case.model)
    gates = case.gates()
    kind, options = strategy.gate_optimizer()
    optimizer = RelativeAdam([gate.step for gate in gates.values()], **options)
    before = case.cost.expected(usages(case.model)).item()
    for step in range(60):
        optimizer.zero_grad()
        strategy.penalty(usages(case.model), at_step(step, steps=60)).backward()  # squared above the budget, else 0
        optimizer.step()
        for _, layer in matrices(case.model):
            layer.update()
    found = case.cost.expected(usages(case.model)).item()
    assert kind == "adam" and before > 5 and found == pytest.approx(3.4, rel=0.2) and found <= 3.4
    assert case.cost.of(strategy.derive(case.model)[1]) <= 3.4


def test_projecting_moves_what_is_nearest_in_bits(make_case):
    """All sub-groups at 5 bits, some of them hardly: those are the first to go to 4."""
    case = make_case(budget="4.5bits", **RANGED)
    strategy = case.strategy("phases")
    near = [gate for place, gate in enumerate(case.gates().values()) if place % 2]
    for gate in case.gates().values():
        gate.step.data = gate._largest().detach() / (8.6 if any(gate is one for one in near) else 14.9)
    assignment = strategy.derive(case.model)[1]
    names = {name: any(gate is one for one in near) for name, gate in case.gates().items()}
    lowered = {name for name in names if min(assignment.matrices[name].bits) < 5}
    assert lowered and all(names[name] for name in lowered)
    assert case.cost.of(assignment) <= 4.5
