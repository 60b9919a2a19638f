"""Bit planes that are rounded as a sum and stripped off where they are all zero (BSQ)."""

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import SubgroupLayout
from hf_mpq.nn.walk import matrices
from hf_mpq.search.schedules import SCHEDULES
from hf_mpq.search.schedules.bit_sparsity import rebinarise
from hf_mpq.search.strategies import Progress
from tests.tiny import outputs, tiny_model
from tests.weights.cases import program_of

BITS = (0, 2, 3, 4, 5, 6, 7, 8)
LAYOUT = SubgroupLayout((4, 6), 2)
PLANES = {
    "gate": "stripped-planes",
    "source": "rounded-planes",
    "quantizer_options": {"two_bits": "ternary"},
}


def of_codes(codes, candidates=BITS):
    """A program whose weights are these codes over 127, the first and the last two rows in sub-groups of their own."""
    weight = codes.float() / 128
    program = program_of("symmetric", LAYOUT, weight, candidates=candidates, **PLANES)
    with torch.no_grad():
        program.source.scale.fill_(1 / 128)
        program.source.set_codes(codes.abs())
    return program, weight


def adjust(program):
    program.gate.strip(program.source.rebinarise(program.gate.choose().window), program.source.scale)


def the_codes():
    codes = torch.randint(-127, 128, (4, 6), generator=torch.Generator().manual_seed(0))
    codes[0, 0], codes[3, 0] = 127, -127
    return codes


@pytest.mark.parametrize("shift", [1, 2])
def test_stripping_an_empty_lowest_plane_doubles_the_scale_and_changes_no_value(shift):
    codes = the_codes()
    codes[:2] = torch.div(codes[:2], 2**shift, rounding_mode="trunc") * 2**shift
    program, weight = of_codes(codes)
    assert torch.equal(program(weight), weight) and program.gate.derive().tolist() == [8, 8]
    adjust(program)
    assert torch.equal(program(weight), weight) and program.gate.derive().tolist() == [8 - shift, 8]
    index = torch.tensor([BITS.index(8 - shift), BITS.index(8)])
    assert torch.equal(program.select_planes(weight, index), weight)
    _, floats = program.quantizer.encode(weight, 8 - shift)
    assert floats[0].item() == 2**shift / 128, "the scale is doubled for every plane"


def test_empty_planes_go_at_both_ends_and_all_of_them_where_all_is_zero():
    codes = the_codes() % 32 // 4 * 4
    codes[2:] = 0
    for candidates, bits in ((BITS, [4, 0]), (BITS[1:], [4, 2])):
        program, weight = of_codes(codes, candidates)
        adjust(program)
        assert program.gate.derive().tolist() == bits and torch.equal(program(weight), weight)


def test_a_code_that_outgrows_its_planes_gets_one_more():
    codes = the_codes() % 8
    codes[:, 0] = 7
    program, weight = of_codes(codes)
    adjust(program)
    assert program.gate.derive().tolist() == [4, 4]
    with torch.no_grad():
        program.source.planes[:3, 0, 0] = torch.tensor([1.6, 2.0, 1.0])  # 9.6
    assert float(program(weight)[0, 0].detach() * 128) == 7, "until then it is as large as the planes allow"
    adjust(program)
    assert program.gate.derive().tolist() == [5, 4] and float(program(weight)[0, 0].detach() * 128) == 10
    with torch.no_grad():
        program.source.planes.fill_(2.0)
    adjust(program)
    assert program.gate.derive().tolist() == [8, 8]
    assert (program(weight) * 128).abs().max() <= 127


def test_the_gradient_of_a_plane_is_its_power_of_two():
    program, weight = of_codes(the_codes())
    adjust(program)
    program(weight).sum().backward()
    signs = torch.where(program.source.negative, -1.0, 1.0) / 128
    for plane, gradient in enumerate(program.source.planes.grad):
        torch.testing.assert_close(gradient, signs * 2**plane)


def quantized():
    fields = {"bits": BITS, "groups": 4, "activation_bits": None, "quantizer": "symmetric"}
    return hf_mpq.quantize(tiny_model("bert", num_hidden_layers=1), MPQConfig(**fields, **PLANES))


def test_the_lasso_empties_planes_and_the_model_is_what_it_was_trained_as():
    model, schedule = quantized(), SCHEDULES["bit-sparsity"](strength=0.5, every=0.25)
    schedule.prepare(model)
    layers = [layer for _, layer in matrices(model) if layer.selects_planes]
    wanted = 0.0
    for layer in layers:
        for planes in layer.program.source.planes.unflatten(1, (4, -1)).unbind(1):  # of a sub-group
            wanted += planes[0].numel() * 7 * planes.flatten(1).norm(dim=1).sum()
    wanted = 0.5 * wanted / sum(layer.weight.numel() for layer in layers)
    torch.testing.assert_close(schedule.penalty(model, Progress(0, 8, 8)), wanted, rtol=1e-4, atol=0)
    optimizer = torch.optim.Adam([layer.program.source.planes for layer in layers], lr=0.1)
    before = schedule.metrics(model)["planes"]
    for step in range(8):
        schedule.before_step(model, Progress(step, 8, 8))
        optimizer.zero_grad()
        schedule.penalty(model, Progress(step, 8, 8)).backward()
        optimizer.step()
        schedule.after_step(model, Progress(step + 1, 8, 8))
        values = torch.cat([layer.program.source.planes.detach().flatten() for layer in layers])
        assert values.min() >= 0 and values.max() <= 2
    schedule.finish(model)
    assert before == 1 and schedule.metrics(model)["planes"] < 1
    expected = outputs(model)[0]
    rebinarise(model)
    assert torch.equal(outputs(model)[0], expected)
    unfolded = [one for one in hf_mpq.assignment_of(model).matrices.values() if 0 in one.bits]
    hf_mpq.fix(model)
    if not unfolded:
        torch.testing.assert_close(outputs(model)[0], expected, atol=1e-6, rtol=0)
    fixed = outputs(model)[0]
    torch.testing.assert_close(outputs(hf_mpq.pack(model))[0], fixed, atol=1e-6, rtol=0)


def test_a_model_without_such_planes_is_refused():
    model = hf_mpq.quantize(tiny_model("bert", num_hidden_layers=1), MPQConfig(bits=(2, 4)))
    with pytest.raises(ValueError, match="source='rounded-planes'"):
        SCHEDULES["bit-sparsity"]().prepare(model)
    with pytest.raises(ValueError, match="a share above 0"):
        SCHEDULES["bit-sparsity"](every=0)
