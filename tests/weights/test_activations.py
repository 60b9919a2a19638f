"""What every registered activation quantizer promises, and what is special to each."""

import pytest
import torch

from hf_mpq.core import ActivationSpec
from hf_mpq.core.registry import options_of
from hf_mpq.weights import ACTIVATIONS, ActivationQuantizer

BITS = range(2, 9)
SIGNED, CLIPPING = ("learned-range",), ("basis", "learned", "learned-range")
PACKED = [name for name in ACTIVATIONS if ACTIVATIONS[name].packed_form]
SYMMETRIC_TOO = [name for name in ACTIVATIONS if "symmetric" in options_of(ACTIVATIONS[name])]
KINDS = [(name, name in SIGNED) for name in ACTIVATIONS] + [(name, True) for name in SYMMETRIC_TOO]
REMEMBERING = ["basis", "learned", "learned-range", "static"]
DYNAMIC = ["dynamic-tensor", "dynamic-token", "probabilities"]
every_kind = pytest.mark.parametrize(("name", "symmetric"), KINDS, ids=lambda value: str(value))


def example(name, shift=-0.3):
    """An activation with one whole token of zeros and zeros among the others; not negative for probabilities."""
    x = torch.randn(2, 6, 10) + shift
    x = torch.softmax(x, -1) if name == "probabilities" else x
    x[0, 1] = 0
    x[..., 3] = 0
    return x


def quantizer_of(name, bits=8, symmetric=False, x=None):
    """A quantizer, calibrated on `x` where one is given, in eval mode."""
    options = {"symmetric": True} if symmetric and name not in SIGNED else {}
    quantizer = ActivationQuantizer.from_spec(ActivationSpec(name, bits, options))
    if x is not None:
        quantizer.calibrate(x)
    return quantizer.eval()


@pytest.mark.parametrize("shift", [-0.3, -20.0, 20.0])
@every_kind
def test_zero_is_exact_and_codes_are_in_range(name, symmetric, shift, device):
    for bits in BITS:
        x = example(name, shift).to(device)
        quantizer = quantizer_of(name, bits, symmetric).to(device)
        quantizer.calibrate(x)
        value = quantizer(x)
        assert not value[x == 0].any() and value.isfinite().all(), bits
        codes, grid = quantizer.encode(x)
        limits = (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
        limits = limits if grid.levels is None else (0, 127)
        assert (grid.low, grid.high) == limits and (grid.levels is None or grid.levels.shape == (2**bits,))
        assert codes.min() >= grid.low and codes.max() <= grid.high and torch.equal(codes, codes.round()), bits
        assert torch.equal(grid.zero, grid.zero.round().clamp(grid.low, grid.high)), bits
        assert torch.equal(quantizer.decode(codes, grid), value), bits


@pytest.mark.parametrize("bits", [3, 8])
@every_kind
def test_quantizing_twice_changes_nothing(name, symmetric, bits):
    x = example(name)
    quantizer = quantizer_of(name, bits, symmetric, x)
    once = quantizer(x)
    torch.testing.assert_close(quantizer(once), once, rtol=1e-5, atol=1e-6)
    assert torch.equal(quantizer.encode(once)[0], quantizer.encode(x)[0])


@pytest.mark.parametrize("shift", [-3.0, -0.3, 3.0])
@pytest.mark.parametrize(("name", "symmetric"), [kind for kind in KINDS if kind[0] not in PACKED], ids=str)
def test_eight_bits_are_close(name, symmetric, shift):
    x = example(name, shift)
    step = x.abs().max() / 127 if symmetric else (x.max() - x.min()) / 255
    assert (quantizer_of(name, 8, symmetric, x)(x) - x).abs().max() <= step * 0.51


@pytest.mark.parametrize(("low", "high"), [(5.0, 6.0), (-6.0, -5.0)])
@every_kind
def test_ranges_without_zero_are_widened_to_it(name, symmetric, low, high):
    if name == "probabilities" and low < 0:
        pytest.skip("probabilities are not negative")
    x = torch.linspace(low, high, 24).view(2, 3, 4)
    quantizer = quantizer_of(name, 8, symmetric, x)
    grid = quantizer.encode(x)[1]
    assert (grid.zero >= grid.low).all() and (grid.zero <= grid.high).all()
    assert not quantizer.decode(grid.zero, grid).any()
    if name not in PACKED:
        assert (quantizer(x) - x).abs().max() <= 6 / 127 * 0.51


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_kind
def test_half_precision_inputs_keep_their_type(name, symmetric, dtype):
    x = example(name).to(dtype).requires_grad_()
    value = quantizer_of(name, 8, symmetric, x.detach())(x)
    assert value.dtype == dtype and not value[x == 0].any()
    wide = x.detach().float()
    torch.testing.assert_close(value, quantizer_of(name, 8, symmetric, wide)(wide).to(dtype))
    value.sum().backward()
    assert x.grad.dtype == dtype and x.grad.isfinite().all()


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name not in CLIPPING])
def test_gradients_pass_straight_through(name):
    x = example(name).requires_grad_()
    quantizer = quantizer_of(name, 4, x=x.detach() / 2)
    upstream = torch.randn_like(x)
    quantizer(x).backward(upstream)
    assert torch.equal(x.grad, upstream)


@every_kind
def test_zeros_alone_stay_zero(name, symmetric):
    x = torch.zeros(2, 3, 4)
    quantizer = quantizer_of(name, 8, symmetric)
    assert torch.equal(quantizer(x), x)
    quantizer.calibrate(x)
    assert torch.equal(quantizer(x), x)


@pytest.mark.parametrize("bits", [0, 1, 9])
def test_only_2_to_8_bits_are_served(bits):
    with pytest.raises(ValueError, match="2 to 8 bits"):
        quantizer_of("dynamic-token", bits)


@every_kind
def test_a_spec_builds_an_equal_quantizer(name, symmetric):
    x = example(name)
    quantizer = quantizer_of(name, 5, symmetric, x)
    again = ActivationQuantizer.from_spec(quantizer.spec)
    again.load_state_dict(quantizer.state_dict())
    assert type(again) is type(quantizer) and again.spec == quantizer.spec
    assert torch.equal(again.eval()(x), quantizer(x))


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_token_is_quantized_by_its_own_range(symmetric):
    x = example("dynamic-token")
    quantizer = quantizer_of("dynamic-token", 4, symmetric)
    other = x.clone()
    other[0, 2] *= 50
    changed = (quantizer(x) != quantizer(other)).any(-1)
    assert changed[0, 2] and changed.sum() == 1
    assert torch.equal(quantizer(x)[1, 4], quantizer(x[1, 4]))


def test_a_tensor_is_quantized_by_one_range():
    x = example("dynamic-tensor")
    other = x.clone()
    other[0, 2] *= 50
    quantizer = quantizer_of("dynamic-tensor", 4)
    assert (quantizer(x) != quantizer(other)).any(-1).float().mean() > 0.7


def test_probabilities_have_a_range_per_row():
    x = torch.softmax(torch.randn(2, 4, 6, 6) * 3, -1)
    x[0, 0, 0] = 0
    value = quantizer_of("probabilities", 4)(x)
    step = x.amax(-1, keepdim=True) / 15
    torch.testing.assert_close(value, torch.round(x / step.clamp(min=1e-30)) * step)
    assert not value[0, 0, 0].any()
    torch.testing.assert_close(value.amax(-1), x.amax(-1))


@pytest.mark.parametrize("name", DYNAMIC)
def test_dynamic_quantizers_keep_no_state(name):
    quantizer = quantizer_of(name, 4)
    assert not quantizer.state_dict() and quantizer.frozen() is quantizer


@pytest.mark.parametrize(("name", "symmetric"), [kind for kind in KINDS if kind[0] in REMEMBERING])
def test_frozen_is_the_same_function_whatever_it_is_cast_to(name, symmetric):
    x = example(name)
    quantizer = quantizer_of(name, 6, symmetric, x)
    frozen = quantizer.frozen()
    assert not list(frozen.parameters()) and frozen.packed_form
    assert torch.equal(frozen(2 * x), quantizer(2 * x))
    before = frozen.state_dict()["grid_bytes"].clone()
    for cast in (frozen.to(torch.bfloat16), frozen.half(), frozen.double()):
        assert torch.equal(cast.state_dict()["grid_bytes"], before) and torch.equal(cast(2 * x), quantizer(2 * x))


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_range_that_was_never_seen_cannot_be_frozen(name):
    quantizer = quantizer_of(name)
    with pytest.raises(ValueError, match="never"):
        quantizer.frozen()
    quantizer.calibrate(example(name))
    quantizer.frozen()
    quantizer.reset()
    with pytest.raises(ValueError, match="never"):
        quantizer.frozen()


@pytest.mark.parametrize("name", REMEMBERING)
def test_until_a_range_is_known_the_current_one_is_used(name):
    x = example(name)
    expected = quantizer_of("dynamic-tensor", 5, name in SIGNED)
    assert torch.equal(quantizer_of(name, 5)(x), expected(x))
    assert torch.equal(quantizer_of(name, 5)(3 * x), expected(3 * x))


@pytest.mark.parametrize("name", REMEMBERING)
def test_calibration_widens_the_range(name):
    x = example(name)
    quantizer = quantizer_of(name, 8, x=x)
    assert (quantizer(x) - x).abs().max() < 0.02
    for wider in (x - 3, x + 3):
        quantizer.calibrate(wider)
    for seen in (x, x - 3, x + 3):
        assert (quantizer(seen) - seen).abs().max() < 0.05
    quantizer.reset()
    quantizer.calibrate(x)
    assert (quantizer(x) - x).abs().max() < 0.02


def test_static_forward_observes_and_update_takes_in():
    quantizer = quantizer_of("static").train()
    quantizer.update()
    assert not quantizer.ready
    quantizer(torch.tensor([-1.0, 2.0]))
    quantizer(torch.tensor([-3.0, 1.0]))
    assert not quantizer.ready and quantizer.range.tolist() == [0, 0]
    quantizer.update()  # the first observation sets the range
    assert quantizer.ready and quantizer.range.tolist() == [-3, 2]
    quantizer(torch.tensor([-5.0, 10.0]))
    assert quantizer.range.tolist() == [-3, 2]
    quantizer.update()
    expected = torch.tensor([-3 * 0.9999 - 5 * 0.0001, 2 * 0.9999 + 10 * 0.0001])
    torch.testing.assert_close(quantizer.range, expected, rtol=1e-6, atol=0)
    before = quantizer.range.clone()
    quantizer.update()  # nothing new was observed
    quantizer.eval()(torch.tensor([-50.0, 50.0]))
    quantizer.update()
    assert torch.equal(quantizer.range, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_average_of_a_static_range_moves_in_half_precision_models(dtype):
    quantizer, cast = (quantizer_of("static", x=torch.tensor([-1.0, 1.0])).train() for _ in range(2))
    cast.to(dtype)
    for _ in range(20):
        for each, values in ((quantizer, torch.tensor([-3.0, 3.0])), (cast, torch.tensor([-3.0, 3.0], dtype=dtype))):
            each(values)
            each.update()
    assert torch.equal(cast.range, quantizer.range) and quantizer.range[1] > 1


def test_static_values_do_not_depend_on_the_batch():
    x = example("static")
    quantizer = quantizer_of("static", 4, x=x).train()
    together = quantizer(torch.cat([x, 100 * x]))
    assert torch.equal(together[:2], quantizer(x)) and together.max() <= x.max() * 1.2


def test_the_decay_is_an_option_that_a_spec_keeps():
    quantizer = ActivationQuantizer.from_spec(ActivationSpec("static", 8, {"decay": 0.5}))
    quantizer.calibrate(torch.tensor([-1.0, 1.0]))
    quantizer.train()(torch.tensor([-2.0, 4.0]))
    quantizer.update()
    assert quantizer.range.tolist() == [-1.5, 2.5] and quantizer.spec.options == {"decay": 0.5}


def learned_reference(x, step, offset, bits):
    """LSQ+ with everything left to autograd; the rounded offset only moves the value to a grid that contains zero."""
    highest = 2**bits - 1
    zero = torch.round(-offset / step).clamp(0, highest).detach()
    ratio = (x + zero * step.detach()) / step.detach()
    inside = (ratio >= 0) & (ratio <= highest)
    code = torch.round(ratio).clamp(0, highest).detach()
    shift = x - x.detach()
    within = shift + step * (code - ratio.detach())
    outside = step * code + offset
    gradient_path = torch.where(inside, within, outside)
    return (code - zero) * step.detach() + gradient_path - gradient_path.detach()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("low", [-1.0, -0.2, 0.0, 0.7])
def test_the_gradients_of_learned_steps_and_offsets(bits, low):
    quantizer = quantizer_of("learned", bits)
    quantizer.calibrate(torch.tensor([low, low + 1.5]))
    x = (torch.randn(3, 5, 8) * 2).requires_grad_()
    upstream = torch.randn(3, 5, 8)
    value = quantizer(x)
    value.backward(upstream)
    copies = [t.detach().double().requires_grad_() for t in (x, quantizer.step, quantizer.offset)]
    expected = learned_reference(*copies, bits)
    expected.backward(upstream.double())
    torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(x.grad.double(), copies[0].grad)
    factor = (5 * 8 * (2**bits - 1)) ** -0.5
    for ours, theirs in zip((quantizer.step, quantizer.offset), copies[1:]):
        torch.testing.assert_close(ours.grad.double(), theirs.grad * factor, rtol=1e-3, atol=1e-4)


def test_clipped_values_move_the_bounds_of_a_learned_range():
    quantizer = quantizer_of("learned", 4, x=torch.tensor([-1.0, 2.0]))
    for value, to_step, to_offset in ((-9.0, 0.0, 1.0), (9.0, 15.0, 1.0)):
        quantizer.zero_grad()
        quantizer(torch.tensor([[value]])).sum().backward()
        assert quantizer.step.grad.item() == pytest.approx(to_step / 15**0.5)
        assert quantizer.offset.grad.item() == pytest.approx(to_offset / 15**0.5)


def test_gradient_steps_on_a_learned_range_lower_the_error():
    x = torch.randn(8, 64) - 0.5
    quantizer = quantizer_of("learned", 3, x=x / 5)
    optimizer = torch.optim.Adam(quantizer.parameters(), 0.02)
    errors = []
    for _ in range(100):
        optimizer.zero_grad()
        error = (quantizer(x) - x).square().mean()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.22 * errors[0]
