"""SDQ's search on problems whose answer is known: three matrices with quadratic damages, ten problems at once."""

from itertools import product
from math import log

import pytest
import torch
from torch import nn

from hf_mpq.core import PrecisionSpace, SubgroupLayout, WeightSpec
from hf_mpq.cost import AverageBits
from hf_mpq.nn import MPQLinear
from hf_mpq.nn.walk import derive, matrices, usages
from hf_mpq.search.strategies import STRATEGIES
from hf_mpq.search.strategies.seeding import seeded

BITS, PROBLEMS, STEPS = (2, 3, 4, 8), 10, 150
HURTS = {"little": 0.3, "some": 1.4, "much": 100.0}
"""What a squared error of each matrix does to the loss. Sub-group k of all three is problem k, with its own draws."""


def problems(limit=None, **options):
    """A model of three matrices, and the strategy."""
    spec = WeightSpec(SubgroupLayout((2 * PROBLEMS, 40), PROBLEMS), BITS, quantizer="lsq", gate="neighbour", bias=False)
    model = nn.ModuleDict({name: MPQLinear.from_linear(nn.Linear(40, 2 * PROBLEMS, False), spec) for name in HURTS})
    for place, layer in enumerate(model.values()):
        with torch.no_grad():
            layer.weight.normal_(std=0.1, generator=seeded(place))
        layer.initialise()
        layer.calibrate()
    space = PrecisionSpace(dict.fromkeys(HURTS, spec))
    strategy = STRATEGIES["descending"](space, [(AverageBits(space), limit)], **options)
    strategy.prepare(model)
    return model.train(), strategy


def damages(name, layer, value):
    """Of a value of a matrix in each problem, `(groups,)`."""
    return HURTS[name] * layer.spec.layout.reduce((value - layer.weight.detach()).square(), "sum")


def search(model, strategy, at_step, steps=STEPS, rate=None):
    """Every step of the search, with the weights as they are; gives the rungs before each step."""
    kind, options = strategy.gate_optimizer()
    assert kind == "adam"
    logits = [layer.program.gate.logits for layer in model.values()]
    optimizer = torch.optim.Adam(logits, **{**options, "lr": rate or options["lr"]})
    for step in range(steps):
        progress = at_step(step, steps, steps, 0)
        strategy.schedule(model, progress)
        yield torch.stack([layer.program.gate.rung.clone() for layer in model.values()])
        loss = sum(damages(name, layer, layer.quantized_weight()).sum() for name, layer in matrices(model))
        optimizer.zero_grad()
        (loss + strategy.penalty(usages(model), progress)).backward()
        optimizer.step()
        for _, layer in matrices(model):
            layer.program.gate.update()


def optima(model, price):
    """By enumeration, the assignment of each problem whose damage plus `price` per bit is least."""
    totals = [
        torch.stack([damages(name, layer, layer.program.quantizer.candidate(layer.weight, bits)) for bits in BITS], 1)
        + price * torch.tensor(BITS)
        for name, layer in model.items()
    ]
    choices = list(product(range(len(BITS)), repeat=3))
    assert len(choices) == 4**3
    every = torch.stack([sum(total[:, k] for total, k in zip(totals, one)) for one in choices])  # (choices, problems)
    return [tuple(BITS[k] for k in choices[best]) for best in every.argmin(0).tolist()]


def test_it_finds_the_optimum_of_damage_and_bits(at_step):
    strength = 12.0
    model, strategy = problems(penalty={"name": "linear", "strength": strength})
    expected = optima(model, strength * 80 / (8 * strategy.limits[0].cost.weights))
    assert {bits for one in expected for bits in one} == {2, 3, 8}
    rungs = torch.stack(list(search(model, strategy, at_step)))
    assert (rungs[1:] <= rungs[:-1]).all() and rungs[0].eq(3).all()
    found = list(zip(*(derive(model).matrices[name].bits for name in HURTS)))
    assert sum(ours == best for ours, best in zip(found, expected, strict=True)) >= 9


@pytest.mark.parametrize(("strength", "end"), [(0.0, 8), (1e4, 2)])
def test_without_a_price_it_stays_at_the_top_and_a_high_one_takes_it_to_the_bottom(strength, end, at_step):
    model, strategy = problems(penalty={"name": "linear", "strength": strength})
    list(search(model, strategy, at_step, steps=90))
    assert {bits for one in derive(model).matrices.values() for bits in one.bits} == {end}


def test_with_a_budget_it_goes_down_until_that_is_met_and_what_matters_keeps_more_bits(at_step):
    model, strategy = problems(limit=4.0)
    list(search(model, strategy, at_step, steps=120))
    expected, found = strategy.metrics(model)["expected_cost"], strategy.derive(model)[1]
    assert expected == pytest.approx(4.0, abs=0.3) and 3.6 < strategy.limits[0].cost.of(found) <= 4.0
    means = [sum(found.matrices[name].bits) / PROBLEMS for name in HURTS]
    assert means == sorted(means) and means[0] < 3 and means[2] > 5


def test_within_the_budget_no_gate_goes_down(at_step):
    """One more would, if the first that goes down did not meet it."""
    model, strategy = problems(limit=7.0)
    with torch.no_grad():
        for layer in model.values():
            layer.program.gate.logits.fill_(-5.0)
    assert not strategy._above(model)
    strategy.schedule(model, at_step(0))
    assert all((layer.program.gate.rung == 3).all() for layer in model.values())
    strategy.limits = (strategy.limits[0]._replace(amount=3.5),)
    strategy.schedule(model, at_step(0))
    assert [int(layer.program.gate.rung.max()) for layer in model.values()] == [2, 2, 3]


def test_the_rate_takes_a_free_gate_to_the_bottom_in_about_half_of_the_stage(at_step):
    """Three pairs, each from beta 0.9 to 0.2; what is given is kept."""
    model, strategy = problems(penalty={"name": "linear", "strength": 1e6})
    assert strategy.gate_rate(100) == pytest.approx(2 * 3 * log(9 * 4) / 100)
    assert problems(warmup=0.5)[1].gate_rate(200) == pytest.approx(strategy.gate_rate(100))
    assert problems(learning_rate=0.1)[1].gate_rate(100) is None
    rungs = list(search(model, strategy, at_step, steps=40, rate=strategy.gate_rate(40)))
    assert rungs[26].eq(0).all() and rungs[14].ne(0).any()


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_a_threshold_is_a_probability(threshold):
    with pytest.raises(ValueError, match="the threshold is a probability, above 0 and below 1"):
        problems(threshold=threshold)


def test_what_is_left_of_the_budget_goes_to_what_is_drawn_higher_most_often():
    """All are likeliest at 2 bits; a third of a bit a weight is left, for which one matrix in each problem can rise."""
    model, strategy = problems(limit=2 + 1 / 3)
    betas = {"little": 0.1, "some": 0.4, "much": 0.3}
    with torch.no_grad():
        for name, layer in model.items():
            gate = layer.program.gate
            gate.rung.fill_(1)  # between 3 and 2 bits
            gate.logits.fill_(log(betas[name] / (1 - betas[name])))
    found = strategy.derive(model)[1]
    assert {name: set(one.bits) for name, one in found.matrices.items()} == {"little": {2}, "some": {3}, "much": {2}}
    assert strategy.limits[0].cost.of(found) == pytest.approx(2 + 1 / 3)
    strategy.limits = (strategy.limits[0]._replace(amount=8.0),)
    assert {bits for one in strategy.derive(model)[1].matrices.values() for bits in one.bits} == {3}, "4 is never drawn"
