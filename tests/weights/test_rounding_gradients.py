"""Rules for the gradient of rounding, by hand and against straight-through."""

import math

import pytest
import torch

from hf_mpq.core import SubgroupLayout
from hf_mpq.weights import QUANTIZERS
from hf_mpq.weights.rounding_gradients import ROUNDING_GRADIENTS, rounding_gradient
from tests.weights.cases import weight_of

TAKING = ["learned-range", "lsq"]
RULES = list(ROUNDING_GRADIENTS)
LAYOUT = SubgroupLayout((11, 10), 4)


def gradients(name, gradient, bits=3):
    """Of the weight and of what is learned, under an upstream gradient of both signs."""
    weight = weight_of(LAYOUT).requires_grad_()
    quantizer = QUANTIZERS[name](LAYOUT, (2, bits), gradient=gradient)
    quantizer.calibrate(weight.detach())
    quantizer.candidate(weight, bits).backward(torch.linspace(-1, 1, weight.numel()).view_as(weight))
    return [weight.grad, *(one.grad for one in quantizer.parameters())]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", TAKING)
def test_without_delta_it_is_straight_through_bit_for_bit(name, rule):
    plain, none, some = (gradients(name, one) for one in (None, {"name": rule, "delta": 0}, {"name": rule}))
    assert all(torch.equal(one, other) for one, other in zip(plain, none, strict=True))
    assert not torch.equal(plain[0], some[0])
    assert all(torch.equal(one, other) for one, other in zip(plain[1:], some[1:], strict=True))


def test_ewgs_by_hand():
    """`g (1 + delta sign(g) e)` with e = w / d - round(w / d), and nothing where the value is clipped."""
    weight = torch.tensor([[0.3, 0.3, -1.4, 2.45, 9.0]], requires_grad=True)
    quantizer = QUANTIZERS["learned-range"](SubgroupLayout((1, 5)), (3,), gradient={"name": "ewgs", "delta": 0.1})
    quantizer.restore(3, torch.tensor([0]), torch.tensor([[1.0]]))
    quantizer.candidate(weight, 3).backward(torch.tensor([[2.0, -2.0, 1.0, -4.0, 5.0]]))
    by_hand = [2 * (1 + 0.1 * 0.3), -2 * (1 - 0.1 * 0.3), 1 - 0.1 * 0.4, -4 * (1 - 0.1 * 0.45), 0]
    assert weight.grad[0].tolist() == pytest.approx(by_hand, rel=1e-5)


def test_inverse_tanh_by_hand():
    rule = rounding_gradient("inverse-tanh")
    assert rule.delta == 5e-3
    errors, upstream = torch.tensor([-0.5, -0.25, 0.0, 0.1, 0.5]), torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0])
    heights = [0.5 * math.atanh(1.9 * float(e)) / math.atanh(0.95) for e in errors]
    assert heights[0] == pytest.approx(-0.5) and heights[-1] == pytest.approx(0.5)
    by_hand = [g * (1 + 5e-3 * math.copysign(1, g) * h) for g, h in zip(upstream.tolist(), heights)]
    assert rule(upstream, errors).tolist() == pytest.approx(by_hand, rel=1e-6)


def test_rules_are_parts():
    assert rounding_gradient(None) is None and rounding_gradient({"name": "ewgs", "delta": 0.5}).delta == 0.5
    with pytest.raises(ValueError, match="unknown rounding gradient 'ewg'; did you mean 'ewgs'"):
        rounding_gradient("ewg")
    with pytest.raises(ValueError, match="unknown option of rounding gradient 'ewgs': 'slope'"):
        rounding_gradient({"name": "ewgs", "slope": 1})
    with pytest.raises(ValueError, match="must not be below zero"):
        rounding_gradient({"name": "ewgs", "delta": -1})
