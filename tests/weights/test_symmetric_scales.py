"""How the symmetric quantizer sets its steps."""

import pytest
import torch

from hf_mpq.core import SubgroupLayout
from hf_mpq.weights import QUANTIZERS, Choice
from tests.weights.cases import EVERY_BIT, LAYOUTS, decoded, quantizer_of, weight_of

ROW = torch.tensor([[-1.5, -0.8, -0.7, 0.0, 0.4, 0.9, 1.2, 1.5]])


def quantized(scale, bits, weight=ROW, two_bits="integer"):
    layout = SubgroupLayout.of("channel", tuple(weight.shape))
    quantizer = quantizer_of(
        "symmetric", layout, (2, 4), weight, scale=scale, two_bits=two_bits, scale_dtype=torch.float32
    )
    return quantizer, quantizer.candidate(weight, bits)


def test_the_range_is_cut_into_as_many_steps_as_there_are_codes_but_one():
    """Risso et al. at 2 bits: step 2 * 1.5 / 3 = 1, levels -2 to 1, half rounded to even."""
    quantizer, values = quantized("range", 2)
    torch.testing.assert_close(quantizer.scale, torch.tensor([[1.0, 0.2]]))
    assert values.tolist() == [[-2.0, -1.0, -1.0, 0.0, 0.0, 1.0, 1.0, 1.0]]
    assert quantized("max", 2)[0].scale[0, 0] == 1.5


def test_above_two_bits_there_is_one_more_level_below_zero_too():
    weight = torch.tensor([[-7.5, -7.4, -3.1, 0.2, 2.9, 7.4, 7.5]])  # step 1
    assert quantized("range", 4, weight)[1].tolist() == [[-8.0, -7.0, -3.0, 0.0, 3.0, 7.0, 7.0]]
    assert quantized("max", 4, torch.tensor([[-7.0, 7.0]]))[1].tolist() == [[-7.0, 7.0]]


def test_a_half_step_grid_reaches_both_ends():
    assert quantized("range", 2, two_bits="half-step")[1].aminmax() == (-1.5, 1.5)


@pytest.mark.parametrize("scale, passed", [("range", 8), ("max", 8), ("scan", 6)])
def test_the_range_passes_every_gradient(scale, passed):
    weight = ROW.clone().requires_grad_()
    layout = SubgroupLayout.of("channel", (1, 8))
    quantizer = quantizer_of("symmetric", layout, (2,), ROW, scale=scale, two_bits="integer")
    quantizer(weight, Choice(index=torch.zeros(1, dtype=torch.long))).sum().backward()
    assert int(weight.grad.count_nonzero()) == passed


@pytest.mark.parametrize("two_bits", ["half-step", "integer", "ternary"])
@pytest.mark.parametrize("bits", EVERY_BIT)
def test_codes_of_the_range_decode_to_the_forward_value(bits, two_bits):
    for layout in LAYOUTS.values():
        weight = weight_of(layout)
        quantizer = quantizer_of("symmetric", layout, EVERY_BIT, weight, scale="range", two_bits=two_bits)
        value, codes, _ = decoded(quantizer, weight, bits)
        assert torch.equal(value, quantizer.candidate(weight, bits)) and int(codes.max()) < 2**bits


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="'scan', 'max' or 'range'"):
        QUANTIZERS["symmetric"](SubgroupLayout.of("channel", (1, 8)), (2,), scale="mean")
