"""Turbulence on normal weights, and who loses the lowest candidate when."""

from math import cos, floor, pi

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import SubgroupLayout, WeightSpec
from hf_mpq.nn.walk import matrices
from hf_mpq.search.schedules import SCHEDULES
from hf_mpq.search.schedules.turbulence import near_boundaries, turbulence
from hf_mpq.search.strategies import Progress
from hf_mpq.weights import QUANTIZERS, WeightProgram
from hf_mpq.weights.quantizers import GridQuantizer
from tests.tiny import tiny_model

BITS = (2, 3, 4, 5, 6)
STEPS = 100


def at(step, steps=STEPS):
    return Progress(step, steps, 10)


def super_net(**config):
    return hf_mpq.quantize(
        tiny_model("bert"), MPQConfig(**{"bits": BITS, "groups": "matrix", "gate": "sampled", **config})
    )


def sets(model):
    return {name: layer.program.gate.allowed.clone() for name, layer in matrices(model) if layer.program.gate.searching}


def test_normal_weights_at_the_steps_of_least_error():
    """part of weights near a boundary: .213, .240, .246, .249 and .250 at 2 to 6 bits, which makes .0679."""
    layout = SubgroupLayout((1024, 256), 1)
    weight = torch.randn(layout.shape, generator=torch.Generator().manual_seed(0))
    program = WeightProgram(
        WeightSpec(layout, BITS, quantizer="lsq", quantizer_options={"two_bits": "integer"}, gate="sampled")
    )
    program.initialise(weight)
    program.calibrate(weight)
    shares = near_boundaries(program, weight)[0]
    torch.testing.assert_close(shares, torch.tensor([0.213, 0.240, 0.246, 0.249, 0.250]), atol=0.004, rtol=0)
    layer = torch.nn.Module()
    layer.program, layer.float_weight = program, lambda: weight
    assert float(turbulence(layer)) == pytest.approx(0.0679, abs=4e-4)
    program.gate.allow(torch.tensor([[False, True, True, True, True]]))
    without = sum(share / bits for share, bits in zip(shares.tolist()[1:], BITS[1:])) / 4
    assert float(turbulence(layer)) == pytest.approx(without), "the mean over what is allowed"


EVEN = [name for name in QUANTIZERS if issubclass(QUANTIZERS[name], GridQuantizer)]


@pytest.mark.parametrize("name", EVEN)
def test_distances_to_levels_are_those_of_the_codes(name):
    layout = SubgroupLayout((8, 16), 2)
    weight = torch.randn(layout.shape, generator=torch.Generator().manual_seed(0))
    quantizer = QUANTIZERS[name](layout, (2, 4))
    quantizer.calibrate(weight)
    for bits in (2, 4):
        found = quantizer.distances(weight, bits)
        step = quantizer.encode(weight, bits)[1][:, 0]
        rounded = quantizer.candidate(weight, bits).detach()
        exact = (weight - rounded) / layout.expand(step).unsqueeze(1)
        inside = exact.abs() < 0.5
        torch.testing.assert_close(found[inside & (found != 0)], exact[inside & (found != 0)], atol=2e-3, rtol=0)
        assert not found[exact.abs() > 0.501].any(), "beyond the last level"


@pytest.mark.parametrize("name", [name for name in QUANTIZERS if name not in EVEN])
def test_a_quantizer_without_even_steps_says_so(name):
    with pytest.raises(ValueError, match="no even steps"):
        QUANTIZERS[name](SubgroupLayout((8, 16), 2), (2, 4)).distances(torch.zeros(8, 16), 2)


def test_the_share_falls_by_the_cosine_and_so_many_are_frozen():
    model, schedule = super_net(), SCHEDULES.make("turbulence")
    schedule.prepare(model)
    counted = len(sets(model))
    due = [step for step in range(STEPS) if schedule.is_due(at(step))]
    assert due == [*range(4, 72, 2), *range(72, 100, 10)]
    for step in (0, 3):
        schedule.before_step(model, at(step))
        assert all(allowed.all() for allowed in sets(model).values()), "the warm-up"
    before, back = None, set()
    for step in due:
        values = {name: float(turbulence(layer)) for name, layer in matrices(model) if layer.program.gate.searching}
        schedule.before_step(model, at(step))
        rho = 0.2 + 0.3 * (1 + cos(pi * (step - 4) / 96)) / 2
        assert schedule.share_at(at(step)) == pytest.approx(rho)
        now = sets(model)
        frozen = {name for name, allowed in now.items() if not allowed.all()}
        assert len(frozen) == floor(rho * counted) and schedule.metrics(model)["frozen"] == pytest.approx(
            len(frozen) / counted
        )
        assert min(values[name] for name in frozen) >= max(values[name] for name in now.keys() - frozen)
        assert all(
            torch.equal(allowed, torch.tensor([[name not in frozen, *[True] * 4]])) for name, allowed in now.items()
        )
        back |= (before or frozen) - frozen
        before = frozen
    assert back, "all others come back"
    assert schedule.share_at(at(STEPS)) == pytest.approx(0.2)
    schedule.before_step(model, at(97))
    assert {name for name, allowed in sets(model).items() if not allowed.all()} == before, "nothing in between"


def test_tied_matrices_and_sub_groups_lose_theirs_together():
    tie = {r"attention\.self\.(query|key)": {"bits": (2, 4), "tie": r"one"}}
    model = super_net(groups=4, bits=(2, 4), rules={**tie, "intermediate": {"bits": 4}})
    schedule = SCHEDULES.make("turbulence", options={"share": 0.5, "begin": 0.0})
    schedule.prepare(model)
    schedule.before_step(model, at(0))
    found = sets(model)
    tied = [allowed for name, allowed in found.items() if "query" in name or "key" in name]
    assert len(tied) == 4 and all(torch.equal(one, tied[0]) for one in tied)
    others = [allowed for name, allowed in found.items() if "query" not in name and "key" not in name]
    counted = torch.cat([tied[0], *others])
    assert int((~counted.all(1)).sum()) == len(counted) // 2
    assert any(0 < int((~one.all(1)).sum()) < 4 for one in found.values()), "each sub-group for itself"


def test_a_share_of_nothing_takes_nothing_away():
    model, schedule = super_net(), SCHEDULES.make("turbulence", options={"share": 0})
    for step in range(STEPS):
        schedule.before_step(model, at(step))
    assert all(allowed.all() for allowed in sets(model).values())


def test_a_model_without_sets_is_refused():
    with pytest.raises(ValueError, match="gate='sampled'"):
        SCHEDULES.make("turbulence").prepare(super_net(gate="softmax"))


@pytest.mark.parametrize("options", [{"share": 1.5}, {"begin": -0.1}, {"every": 0}, {"late_every": 0}, {"late": 2}])
def test_shares_that_are_none(options):
    with pytest.raises(ValueError, match="shares from 0 to 1"):
        SCHEDULES.make("turbulence", options=options)
