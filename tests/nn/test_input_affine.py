"""A shift and a scale for each input channel: the same float function, the same packed one, and no cost without."""

import copy

import pytest
import torch
import torch.nn.functional as F

from hf_mpq.core import ActivationSpec, MatrixStorage
from hf_mpq.nn import MPQLinear
from hf_mpq.nn.packing import pack_matrix, plain_layer
from tests.nn.cases import LAYOUTS, linear_of
from tests.nn.test_packed_layers import assert_twins, with_dead

every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def affine(shift=True):
    scale = torch.linspace(0.2, 9.3, 11)
    return scale, torch.linspace(-3.1, 7.3, 11) if shift else None


def shifted(layout, shift=True, **options) -> MPQLinear:
    layer = linear_of(layout, **options)
    layer.set_input_affine(*affine(shift))
    layer.calibrate()
    return layer


def float_output(layer, x):
    return F.linear(layer.normalised(x), layer.kept_weight(), layer.bias)


@pytest.mark.parametrize("mask", [None, "element"])
@pytest.mark.parametrize("shift", [True, False])
@every_layout
def test_the_float_function_stays(layout, shift, mask):
    layer, x = linear_of(layout, mask=mask, bias=shift), torch.randn(5, 11)
    before, weight = float_output(layer, x), layer.weight.clone()
    layer.set_input_affine(*affine(shift))
    torch.testing.assert_close(float_output(layer, x), before, atol=1e-5, rtol=0)
    assert not torch.equal(layer.weight, weight) and layer.input_scale[0] == torch.tensor(0.2).half().float()
    layer.set_input_affine(affine()[0].flip(0))
    torch.testing.assert_close(float_output(layer, x), before, atol=1e-5, rtol=0)
    assert layer.input_shift is None
    layer.remove_input_affine()
    torch.testing.assert_close(layer.weight, weight, atol=1e-6, rtol=0)
    assert not any("input_" in name for name in layer.state_dict())


@pytest.mark.parametrize("activation", [None, ActivationSpec("dynamic-token", 4)])
@pytest.mark.parametrize("float_dtype", ["float16", "float32"])
@pytest.mark.parametrize("shift", [True, False])
@every_layout
def test_twins_are_equal(layout, shift, float_dtype, activation):
    layer, x = shifted(layout, shift, float_dtype=float_dtype, activation=activation), torch.randn(2, 3, 11)
    packed = pack_matrix(layer)
    assert_twins(layer, packed)
    assert torch.equal(packed(x), layer(x)) and torch.equal(packed.input_scale, layer.input_scale)
    plain = linear_of(layout, float_dtype=float_dtype).storage().total_bytes
    assert packed.stored.total_bytes == plain + 11 * (2 if float_dtype == "float16" else 4) * (1 + shift)
    assert MatrixStorage.from_dict(packed.stored.to_dict()) == packed.stored
    again = type(packed)(packed.stored, torch.float32, input_quantizer=packed.input_quantizer)
    again.load_state_dict(packed.state_dict())
    assert torch.equal(again(x), layer(x))


@every_layout
def test_plain_layers_take_the_affine_into_their_weight(layout):
    layer, x = shifted(layout), torch.randn(4, 11)
    for one in (layer, pack_matrix(layer)):
        torch.testing.assert_close(plain_layer(one)(x), layer(x), atol=2e-5, rtol=0)


def test_dead_channels_read_exact_zeros_and_are_not_stored():
    dead, x = [0, 3, 10], torch.randn(4, 11)
    x[:, dead] = 0
    layer = with_dead(linear_of(LAYOUTS["channel"]), dead)
    before = float_output(layer, x)
    layer.set_input_affine(*affine())
    torch.testing.assert_close(float_output(layer, x), before, atol=1e-5, rtol=0)
    assert not layer.normalised(x)[:, dead].any() and layer.normalised(x).all(0).sum() == 8
    packed = pack_matrix(layer)
    assert_twins(layer, packed)
    assert packed.stored.buffers()["input_shift_values"] == 2 * 8
    assert torch.equal(packed(x), layer(x)) and torch.equal(packed.input_shift, layer.input_shift)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_casts_leave_the_channels_alone(dtype):
    layer = shifted(LAYOUTS["channel"])
    packed, x = pack_matrix(layer), torch.randn(4, 11).to(dtype)
    scale, shift = layer.input_scale, layer.input_shift
    for one in (layer, packed):
        one.to(dtype)
        assert one(x).dtype == dtype
        assert torch.equal(one.input_scale, scale) and torch.equal(one.input_shift, shift)
        torch.testing.assert_close(one(x).float(), copy.deepcopy(one).float()(x.float()), atol=0.1, rtol=0.05)


def test_gradients_pass_through():
    layer, x = shifted(LAYOUTS["channel"]), torch.randn(4, 11, requires_grad=True)
    layer(x).sum().backward()
    expected = layer.quantized_weight().sum(0) / layer.input_scale
    torch.testing.assert_close(x.grad, expected.expand(4, -1))


def test_what_cannot_be_shifted_is_refused():
    layer = linear_of(LAYOUTS["channel"], bias=False)
    with pytest.raises(ValueError, match="without a bias"):
        layer.set_input_affine(*affine())
    with pytest.raises(ValueError, match="positive"):
        layer.set_input_affine(torch.zeros(11))
    assert layer.spec.affine == ()
