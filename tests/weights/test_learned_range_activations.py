"""A learned range of an activation, by the paper's formulas, with bits that are decided and with a grid that is set."""

import copy
import math

import pytest
import torch

from hf_mpq.core import ActivationSpec
from hf_mpq.weights import ACTIVATIONS, ActivationQuantizer, OpenActivation
from hf_mpq.weights.rounding_gradients import rounding_gradient

CANDIDATES = (2, 3, 4, 8)
STEP, RANGE = 0.25, 0.8  # k = round(3.2) = 3
VALUES = [-2.0, -0.81, -0.79, -0.6, -0.1, 0.0, 0.13, 0.4, 0.76, 0.79, 0.85, 3.0]


def open_input(step=None, largest=None, **options):
    """An input under the gate that sets the grid."""
    made = OpenActivation(ActivationSpec("learned-range", 8, options, CANDIDATES, "learned-range"))
    made.calibrate(torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0)))
    if step is not None:
        with torch.no_grad():
            made.gate.step.fill_(step), made.quantizers[0].range.fill_(largest)
    return made


def test_the_value_is_the_papers():
    x = torch.tensor([VALUES])
    for step, largest in ((STEP, RANGE), (0.25, 0.9), (0.5, 0.5), (0.125, 1.0)):
        expected = step * torch.round(x.clamp(-largest, largest) / step)
        assert torch.equal(open_input(step, largest)(x), expected)


@pytest.mark.parametrize("position", range(len(VALUES)))
def test_gradients_inside_and_outside(position):
    value, x = VALUES[position], torch.tensor([VALUES], requires_grad=True)
    quantizer = open_input(STEP, RANGE)
    quantizer(x)[0, position].backward()
    rest = round(value / STEP) - value / STEP
    by_hand = [1, rest, 0] if abs(value) <= RANGE else [0, 0, math.copysign(1, value)]
    found = [x.grad[0, position], quantizer.gate.step.grad, quantizer.quantizers[0].range.grad]
    assert [float(one) for one in found] == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("bits", range(2, 9))
def test_at_decided_bits_the_step_goes_with_the_range(bits):
    x = torch.tensor([VALUES], requires_grad=True)
    quantizer, levels = ActivationQuantizer.from_spec(ActivationSpec("learned-range", bits)), 2 ** (bits - 1) - 1
    quantizer.calibrate(x.detach() / 2)
    assert quantizer.range == 1.5
    quantizer(x).sum().backward()
    ratio = x.detach() / (1.5 / levels)
    inside = ratio.abs() <= levels
    expected = torch.where(inside, (ratio.round() - ratio) / levels, x.detach().sign()).sum()
    assert quantizer.range.grad.item() == pytest.approx(expected.item(), abs=1e-4)
    assert torch.equal(x.grad, inside.float())
    frozen = quantizer.frozen()
    assert torch.equal(frozen(x), quantizer(x)) and frozen.bits == bits


@pytest.mark.parametrize("rule", ["ewgs", "inverse-tanh"])
def test_without_delta_the_gradient_is_straight_through_bit_for_bit(rule):
    upstream = torch.linspace(-1, 1, 60).view(5, 12)

    def gradients(gradient):
        x = torch.randn(5, 12, generator=torch.Generator().manual_seed(3)).requires_grad_()
        quantizer = ACTIVATIONS["learned-range"](3, gradient=gradient)
        quantizer.calibrate(x.detach() / 2)
        quantizer(x).backward(upstream)
        return x, x.grad, quantizer.range.grad, quantizer

    x, plain, to_range, quantizer = gradients(None)
    _, none, _, _ = gradients({"name": rule, "delta": 0})
    _, some, same, _ = gradients(rule)
    assert torch.equal(plain, none) and torch.equal(to_range, same)
    ratio = x.detach() / (quantizer.range.detach() / 3)
    inside = ratio.abs() <= 3
    expected = torch.where(inside, rounding_gradient(rule)(upstream, ratio - ratio.round()), 0.0)
    torch.testing.assert_close(some, expected)
    assert not torch.equal(some, plain)


def test_it_starts_from_a_percentile_the_largest_over_the_examples():
    x = torch.randperm(2000, generator=torch.Generator().manual_seed(0)).float().sub(1000).view(2, 10, 100)
    for percentile, options in ((99.9, {}), (50, {"percentile": 50}), (100, {"percentile": 100})):
        quantizer = ActivationQuantizer.from_spec(ActivationSpec("learned-range", 8, options))
        for example in (x / 2, x, x / 3):
            quantizer.calibrate(example)
        assert quantizer.range.item() == pytest.approx(torch.quantile(x.abs(), percentile / 100).item(), abs=1.5)
        assert quantizer.spec.options == options
    with pytest.raises(ValueError, match="above 0 and at most 100, got 0"):
        ACTIVATIONS["learned-range"](percentile=0)


def test_a_rule_is_an_option_that_a_spec_keeps():
    quantizer = ActivationQuantizer.from_spec(ActivationSpec("learned-range", 4, {"gradient": "inverse-tanh"}))
    assert quantizer.spec.options == {"gradient": "inverse-tanh"}
    assert quantizer.set_bits(3) is None and quantizer.spec.bits == 3 and not ACTIVATIONS["learned-range"](4).options


def test_all_bits_share_the_range_and_the_gate_follows_it():
    quantizer = open_input()
    assert len(quantizer.quantizers) == 1 and quantizer.bits == 4  # the highest candidate up to 6
    with torch.no_grad():
        quantizer.quantizers[0].range.mul_(0.4)
    assert quantizer.bits == 3 and quantizer.decided(8).range == quantizer.quantizers[0].range
    x, before = torch.randn(3, 8), copy.deepcopy(quantizer)
    frozen = quantizer.frozen()
    assert frozen.bits == 3 and torch.equal(frozen.grid(x).step, quantizer.grid(x).step)
    quantizer.update()
    assert torch.equal(quantizer(x), before(x))
    quantizer.calibrate(10 * x)
    assert quantizer.bits == 4
