"""Hyperspherical quantization: angles of ternary rows, re-initialisation, and what is stored."""

from math import ceil, erfc, exp, pi, sqrt

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import Part, SubgroupLayout, WeightSpec
from hf_mpq.nn.walk import matrices, set_rounding
from hf_mpq.search.schedules import SCHEDULES
from hf_mpq.search.schedules.reinitialise import ternary_cosines
from hf_mpq.search.strategies import Progress
from hf_mpq.training.objectives import OBJECTIVES
from hf_mpq.weights import WeightProgram
from tests.tiny import outputs, tiny_batch, tiny_model
from tests.training.runs import quantized

COSINES = {0.0: (0.798, 0.798), 0.3: (0.873, 0.876), 0.612: (0.900, 0.925), 1.0: (0.859, 0.960), 1.5: (0.709, 0.981)}
"""Threshold over sigma to the cosine of a Gaussian row and its ternary value, and of the row pruned first and it."""


def program_of(weight, density, transforms=()):
    """Ternary as it is trained and stored: a mask and one bit."""
    layout = SubgroupLayout(tuple(weight.shape), len(weight))
    options = {"mask": "element", "mask_options": {"density": density}} if density < 1 else {}
    spec = WeightSpec(layout, (1,), (1,) * len(weight), transforms={name: {} for name in transforms}, **options)
    program = WeightProgram(spec)
    program.initialise(weight)
    program.calibrate(weight)
    return program


def cosine(one, other):
    return float((one * other).sum() / (one.norm() * other.norm()))


def upper_tail(threshold):
    return erfc(threshold / sqrt(2)) / 2


@pytest.mark.parametrize("threshold", COSINES)
def test_the_cosine_of_a_gaussian_is_the_closed_form(threshold):
    """`2 phi / sqrt(2 (1 - Phi))` of a dense row; pruned first it is nearer, the more the more is pruned."""
    weight = torch.erfinv(torch.linspace(-1, 1, 20_003)[1:-1]).unsqueeze(0) * 2**0.5
    tail, density = upper_tail(threshold), exp(-(threshold**2) / 2) / sqrt(2 * pi)
    closed = 2 * density / sqrt(2 * tail)
    pruned = closed / sqrt(2 * (tail + threshold * density))
    assert (closed, pruned) == (
        pytest.approx(COSINES[threshold][0], abs=1e-3),
        pytest.approx(COSINES[threshold][1], abs=1.5e-3),
    )
    program = program_of(weight, 2 * tail)
    value, kept = program(weight), program.float_weight(weight)
    assert cosine(weight, value) == pytest.approx(closed, abs=1e-3)
    assert cosine(kept, value) == pytest.approx(pruned, abs=1e-3)
    if threshold:
        assert float(ternary_cosines(weight, program)) == pytest.approx(pruned, abs=1e-3)


def test_the_squared_straight_through_bias_of_unit_rows_is_twice_the_distance():
    weight = torch.randn(6, 400, generator=torch.Generator().manual_seed(0))
    program = program_of(weight, 0.4)
    rows = torch.nn.functional.normalize(program.float_weight(weight))
    ternary = torch.nn.functional.normalize(program(weight))
    distance = 1 - (rows * ternary).sum(1)
    torch.testing.assert_close((ternary - rows).square().sum(1), 2 * distance)
    assert 0.03 < distance.mean() < 0.12


def test_the_gradient_of_a_row_is_orthogonal_to_it_through_mask_and_rounding():
    weight = torch.randn(8, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    program = program_of(weight.detach(), 0.4, ["unit-rows"])
    torch.testing.assert_close(program.float_weight(weight, masked=False), weight, rtol=1e-6, atol=0)
    program(weight).mul(torch.randn(8, 40)).sum().backward()
    assert weight.grad.norm() > 1
    assert (weight.grad * weight).sum(1).abs().max() < 1e-5 * weight.grad.norm() * weight.norm()


def test_the_method_starts_as_the_float_function():
    model = quantized("hyperspherical", groups="channel", mask=None)
    encoder = [layer for _, layer in matrices(model) if layer.spec.role == "encoder"]
    assert encoder and all("unit-rows" in layer.program.transforms for layer in encoder)
    plain = quantized("hyperspherical", groups="channel", mask=None, transforms={})
    found, wanted = (outputs(set_rounding(one, False))[0] for one in (model, plain))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert (wanted - outputs(set_rounding(plain, True))[0]).abs().max() > 0.01


@pytest.fixture
def model():
    return hf_mpq.quantize(tiny_model("bert", num_hidden_layers=1), MPQConfig(method="hyperspherical"))


@pytest.mark.parametrize("eta", [1.0, 0.25])
def test_re_initialised_rows_point_where_their_ternary_values_do(model, eta):
    schedule = SCHEDULES.make("reinitialise", options={"eta": eta, "rounds": 1, "end": 0.5})
    layer = dict(matrices(model))["encoder.layer.0.output.dense"]
    before, keep = layer.weight.detach().clone(), layer.program.mask.keep
    first = schedule.metrics(model)["ternary_cosine"]
    schedule.prepare(model)
    for step in range(8):
        schedule.before_step(model, Progress(step, 8, 4))
        assert torch.equal(layer.weight, before) == (step < 4)
    mean = (before.abs() * keep).sum(1) / keep.sum(1)
    wanted = (1 - eta) * before + eta * before.sign() * mean.unsqueeze(1)
    torch.testing.assert_close(layer.weight.detach(), torch.where(keep, wanted, before))
    last = schedule.metrics(model)["ternary_cosine"]
    assert last == pytest.approx(1, abs=1e-6) if eta == 1 else first + 0.01 < last < 1


def test_rounds_are_evenly_spaced_and_the_last_is_before_the_end():
    made = lambda **options: SCHEDULES.make("reinitialise", options=options)  # noqa: E731
    assert made(begin=0.1, end=0.7, rounds=4).steps(100) == [10, 30, 50, 70]
    assert made(begin=0, end=1, rounds=2).steps(10) == [0, 9] and made(end=0.5, rounds=1).steps(10) == [5]
    assert made(rounds=9).steps(3) == [0, 1, 2]
    for wrong in ({"eta": 0}, {"eta": 1.5}, {"begin": 0.8, "end": 0.2}, {"rounds": 0}):
        with pytest.raises(ValueError, match="got"):
            made(**wrong)
    with pytest.raises(ValueError, match=r"needs masks: quantize with MPQConfig\(mask='element'\)"):
        made().prepare(hf_mpq.quantize(tiny_model("bert", num_hidden_layers=1), MPQConfig(bits=1)))


@torch.no_grad()
def test_a_row_of_which_all_is_pruned_gives_its_bias(model):
    layer = dict(matrices(model))["encoder.layer.0.output.dense"]
    layer.program.mask.keep[3] = False
    layer.program.refresh()
    layer.calibrate()
    x = torch.randn(5, layer.in_features)
    torch.testing.assert_close(layer(x)[:, 3], layer.bias[3].expand(5))
    assert float(OBJECTIVES["cosine-distance"](model).of_weights([("", layer)])) < 0.2
    packed = dict(matrices(hf_mpq.pack(model), hf_mpq.nn.PackedLinear))["encoder.layer.0.output.dense"]
    torch.testing.assert_close(packed(x)[:, 3], packed.bias[3].expand(5).float())


@pytest.mark.parametrize("density", [0.4, 0.1])
def test_a_packed_matrix_has_one_bit_for_each_weight_and_one_for_each_that_is_kept(density):
    """1 + d bits a weight, or fewer where runs of the mask are shorter than flags."""
    config = MPQConfig(method="hyperspherical", mask=Part("element", density=density))
    model = hf_mpq.pack(hf_mpq.quantize(tiny_model("bert", num_hidden_layers=1), config))
    for name, layer in matrices(model, hf_mpq.nn.PackedLinear):
        if "layer" not in name:
            continue
        sizes, (rows, columns) = layer.stored.buffers(), layer.stored.layout.shape
        kept = round(density * rows * columns)
        flags = rows * ceil(columns / 8)
        assert sizes["codes"] == ceil(kept / 8)
        assert sizes["mask"] <= flags if density < 0.3 else sizes["mask"] == flags
        assert sizes["scales"] == 2 * rows
        assert set(layer.weight.sign().unique().tolist()) == {-1, 0, 1}


@pytest.mark.parametrize("unit", [True, False])
def test_the_distance_is_one_minus_the_cosine_and_has_a_gradient(unit):
    model = quantized(
        None, bits=1, groups="channel", mask=Part("element", density=0.4), transforms={"unit-rows": {}} if unit else {}
    )
    layers = [(name, layer) for name, layer in matrices(model) if layer.spec.role == "encoder"]
    found = OBJECTIVES["cosine-distance"](model).of_weights(layers)
    wanted = sum(float((1 - ternary_cosines(layer.weight.detach(), layer.program)).mean()) for _, layer in layers)
    assert found.item() == pytest.approx(wanted, rel=1e-4)
    found.backward()
    with torch.no_grad():
        for _, layer in layers:
            layer.weight -= layer.weight.grad
    assert OBJECTIVES["cosine-distance"](model).of_weights(layers).item() < 0.98 * wanted


def test_compressed_without_training_it_is_ternary_too():
    model = hf_mpq.compress(tiny_model("bert"), None, [tiny_batch()], method="hyperspherical", progress=False)
    layer = dict(matrices(model))["encoder.layer.1.output.dense"]
    values = layer.quantized_weight().detach()
    assert all(len(row.abs().unique()) <= 2 for row in values)
    assert (values != 0).float().mean() == pytest.approx(0.4, abs=0.01)
