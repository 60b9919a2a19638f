"""Every schedule changes what it says, by where training is alone."""

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn.walk import matrices
from hf_mpq.search.schedules import SCHEDULES
from hf_mpq.search.strategies import Progress
from tests.tiny import tiny_model

PLANES = {"gate": "stripped-planes", "source": "rounded-planes", "quantizer_options": {"two_bits": "ternary"}}
NEEDS = {"bit-sparsity": PLANES}
"""Of schedules that do not go with sampled gates."""


def masked(**fields):
    config = MPQConfig(**{"bits": (2, 4), "groups": 4, "mask": "element", "mask_options": {"density": 0.1}, **fields})
    return hf_mpq.quantize(tiny_model("bert"), config)


@pytest.fixture
def model():
    return masked(gate="sampled")


def at(step, steps=40):
    return Progress(step, steps, 10)


def masks(model):
    return {name: layer.program.mask for name, layer in matrices(model) if layer.program.mask is not None}


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_the_contract(name):
    model = masked(**NEEDS.get(name, {"gate": "sampled"}))
    schedule = SCHEDULES.make(name)
    schedule.prepare(model)
    for step in range(40):
        schedule.before_step(model, at(step))
        asked = schedule.penalty(model, at(step))
        assert asked is None or (asked.dim() == 0 and asked.isfinite())
        schedule.after_step(model, at(step + 1))
        assert all(isinstance(value, float) for value in schedule.metrics(model).values())
    again = SCHEDULES.make(name)
    again.load_state_dict(schedule.state_dict())
    schedule.finish(model)


def test_masks_close_along_the_cubic_ramp(model):
    schedule = SCHEDULES.make("gradual-pruning", options={"begin": 0.25, "end": 0.75, "every": 5})
    schedule.prepare(model)
    assert all(mask.keep.all() for mask in masks(model).values())
    densities = []
    for step in range(40):
        schedule.before_step(model, at(step))
        densities.append(schedule.metrics(model)["density"])
    assert densities[:10] == [1.0] * 10, "before the ramp begins"
    for step in (10, 15, 20, 25, 30):
        wanted = 1 - 0.9 * (1 - (1 - (step - 10) / 20) ** 3)
        assert densities[step] == pytest.approx(wanted, abs=2e-3)
        assert densities[step : step + 5] == [densities[step]] * min(5, 40 - step), "only every fifth step"
    assert densities[30:] == [pytest.approx(0.1, abs=1e-3)] * 10
    schedule.finish(model)


def test_a_weight_that_grows_while_it_is_held_comes_back(model):
    schedule = SCHEDULES.make("gradual-pruning", options={"end": 1.0, "every": 1})
    schedule.prepare(model)
    schedule.before_step(model, at(20))
    layer = dict(matrices(model))["encoder.layer.0.output.dense"]
    held = (~layer.program.mask.keep).nonzero()[0]
    with torch.no_grad():
        layer.weight[held[0], held[1]] = 9.0
    schedule.before_step(model, at(21))
    assert layer.program.mask.keep[held[0], held[1]]


ONCE = {"end": 0.5, "every": 0.01, "until": 0.8, "rewind": True}
"""Of Prune Once for All: 100,000 steps, choices every 1,000 until 80,000, the ramp until 50,000."""


def test_the_schedule_of_prune_once_for_all():
    schedule = SCHEDULES.make("gradual-pruning", options=ONCE)
    at_thousands = {5: 0.244, 10: 0.439, 25: 0.787, 40: 0.893, 50: 0.900, 75: 0.900}
    for thousands, sparsity in at_thousands.items():
        assert 0.9 * schedule.share_at(at(1000 * thousands, 100_000)) == pytest.approx(sparsity, abs=5e-4)


def test_the_learning_rate_is_rewound_at_every_choice():
    schedule = SCHEDULES.make("gradual-pruning", options=ONCE)
    rate = lambda step: schedule.rate(step, 100_000, 1000)  # noqa: E731
    for step, factor in {0: 0.0, 500: 0.5, 1999: 1.00002, 2000: 1.0204, 2999: 1.00002, 75_000: 0.5102}.items():
        assert rate(step) == pytest.approx(factor, abs=5e-5)
    assert [rate(step) for step in (50_000, 100_000)] == [pytest.approx(50 / 49), 0]
    assert SCHEDULES.make("gradual-pruning").rate(10, 100, 1) is None


def test_which_weights_are_held_is_chosen_after_the_ramp_too(model):
    schedule = SCHEDULES.make("gradual-pruning", options={"end": 0.5, "every": 0.1, "until": 0.75})
    schedule.prepare(model)
    layer, changed = dict(matrices(model))["encoder.layer.0.output.dense"], []
    for step in range(40):
        before = layer.program.mask.keep.clone()
        schedule.before_step(model, at(step))
        changed += [step] * (not torch.equal(before, layer.program.mask.keep))
        with torch.no_grad():
            layer.weight.copy_(torch.randn_like(layer.weight))
    assert changed == [4, 8, 12, 16, 20, 24, 28] and layer.program.mask.pruned_share() == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"every": 1.5}, "at least 1"), ({"until": 0.2}, "from end"), ({"end": 1.0, "rewind": True}, "below 1")],
)
def test_choices_that_are_none(options, words):
    with pytest.raises(ValueError, match=words):
        SCHEDULES.make("gradual-pruning", options=options)


@pytest.mark.parametrize("options", [{"begin": 0.5, "end": 0.5}, {"begin": -0.1}, {"end": 1.2}, {"every": 0}])
def test_ramps_that_are_none(options):
    with pytest.raises(ValueError, match=r"begin < end|at least 1"):
        SCHEDULES.make("gradual-pruning", options=options)


def test_a_model_without_masks_is_refused():
    with pytest.raises(ValueError, match="needs masks"):
        SCHEDULES.make("gradual-pruning").prepare(hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4)))


def test_a_stage_that_ends_before_its_masks_are_closed_says_so(model):
    schedule = SCHEDULES.make("gradual-pruning")
    schedule.prepare(model)
    with pytest.raises(ValueError, match="more steps"):
        schedule.finish(model)
