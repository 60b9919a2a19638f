"""CSQ's search: planes go above the budget and come back below it."""

import pytest
import torch

import hf_mpq
from hf_mpq.nn import usages
from hf_mpq.nn.walk import derive, matrices
from hf_mpq.search.strategies import plane_memory
from tests.weights.cases import going_with

BITS = (0, 2, 3, 4, 5, 6, 7, 8)
STEPS = 60


@pytest.fixture
def planes(make_case):
    return lambda budget="3bits", **config: make_case(
        budget, bits=BITS, gate="planes", **{**going_with("planes"), **config}
    )


@pytest.mark.parametrize("begin", [1.0, -1.0], ids=["all open", "all closed"])
def test_bits_fall_to_the_budget_and_rise_to_it(planes, at_step, begin):
    """With what planes are worth as the only loss: the error of the weights."""
    case = planes(groups=8)
    strategy = case.strategy("continuous-sparsification")
    strategy.prepare(case.model)
    logits = [gate.logits for gate in case.gates().values()]
    with torch.no_grad():
        for one in logits:
            one.fill_(begin)
    assert case.cost.of(derive(case.model)) == (8 if begin > 0 else 0)
    optimizer = torch.optim.Adam(logits, **strategy.gate_optimizer()[1] | {"lr": strategy.gate_rate(STEPS)})
    layers = [(layer, layer.float_weight().detach()) for _, layer in matrices(case.model) if layer.selects_planes]
    for step in range(STEPS):
        now = at_step(step, steps=STEPS)
        strategy.schedule(case.model, now)
        optimizer.zero_grad()
        errors = [(layer.quantized_weight() - w).square().sum() / w.square().sum() for layer, w in layers]
        (sum(errors) + strategy.penalty(usages(case.model), now)).backward()
        optimizer.step()
    assert case.cost.of(derive(case.model)) == pytest.approx(3, abs=0.1)
    found = strategy.derive(case.model)[1]
    assert case.cost.of(found) <= 3
    sharp = {float(layer.program.source.temperature) for layer, _ in layers}
    assert len(sharp) == 1 and 1 / 200 < sharp.pop() < 1 / 150
    hf_mpq.fix(case.model, found)
    assert derive(case.model).matrices == found.matrices


def test_planes_that_do_not_fit_are_refused_before_training(planes, monkeypatch):
    case = planes()
    monkeypatch.setattr(plane_memory, "free_bytes", lambda device: 1000)
    with pytest.raises(ValueError, match="leave out the highest of the bits"):
        case.strategy("continuous-sparsification").prepare(case.model)
    monkeypatch.undo()
    assert plane_memory.free_bytes(torch.device("cpu")) is None or plane_memory.free_bytes(torch.device("cpu")) > 1e6
    assert plane_memory.free_bytes(torch.device("meta")) is None
