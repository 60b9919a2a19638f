"""Vertical layering: one set of codes, whose top planes are the codes of every lower precision."""

from itertools import pairwise

import pytest
import torch

from hf_mpq.core import SubgroupLayout
from hf_mpq.weights import QUANTIZERS
from hf_mpq.weights.choice import Choice
from hf_mpq.weights.compilation import compiler_present
from hf_mpq.weights.encodings import Nested
from tests.weights.cases import decoded, quantizer_of, weight_of

LAYOUT = SubgroupLayout((11, 10), 4)
SERVED = (2, 3, 4, 8)


def test_lower_codes_are_the_higher_ones_with_bits_dropped():
    weight = weight_of(LAYOUT)
    quantizer = quantizer_of("nested", LAYOUT, SERVED, weight)
    codes = {bits: decoded(quantizer, weight, bits)[1] for bits in SERVED}
    for bits in SERVED:
        assert torch.equal(codes[bits], codes[8] // 2 ** (8 - bits))


@pytest.mark.parametrize("bits", SERVED)
def test_codes_are_within_half_a_step_of_every_precision(bits):
    weight = weight_of(LAYOUT)
    quantizer = quantizer_of("nested", LAYOUT, SERVED, weight)
    factors = torch.tensor([2.0 ** (8 - one) for one in SERVED])
    with torch.no_grad():
        quantizer.scale.copy_(quantizer.scale[:, -1:] * factors)
    step = LAYOUT.expand(quantizer.scale.detach()[:, -1:]) * 2 ** (8 - bits)
    inside = weight.abs() < LAYOUT.expand(quantizer.scale.detach()[:, -1:]) * 127
    error = (quantizer.candidate(weight, bits).detach() - weight).abs()
    assert inside.float().mean() > 0.9 and (error <= step * 0.51)[inside].all()


@pytest.mark.parametrize("bits", SERVED[:-1])
def test_lower_scales_start_at_least_squares(bits):
    weight = weight_of(LAYOUT)
    quantizer, place = quantizer_of("nested", LAYOUT, SERVED, weight), SERVED.index(bits)

    def error(factor):
        moved = quantizer_of("nested", LAYOUT, SERVED, weight)
        with torch.no_grad():
            moved.scale[:, place] *= factor
        return LAYOUT.reduce((moved.candidate(weight, bits).detach() - weight).square(), "sum")

    assert all((error(1.0) <= error(factor)).all() for factor in (0.99, 1.01)) and quantizer.scale.min() > 0


def test_more_bits_mean_less_error():
    weight = weight_of(LAYOUT)
    quantizer = quantizer_of("nested", LAYOUT, SERVED, weight)
    errors = [(quantizer.candidate(weight, bits) - weight).square().sum().item() for bits in SERVED]
    assert all(lower > 2 * higher for lower, higher in pairwise(errors))


@pytest.mark.parametrize("bits", SERVED)
def test_values_stand_at_the_centre_of_the_codes_they_swallow(bits):
    codes = torch.arange(256).float()
    fine = codes - Nested.zero(8, 8)
    coarse = (torch.floor(codes / 2 ** (8 - bits)) - Nested.zero(bits, 8)) * 2 ** (8 - bits)
    centres = fine.view(2**bits, -1).mean(1).repeat_interleave(2 ** (8 - bits))
    assert torch.equal(coarse, centres)


@pytest.mark.parametrize("bits", SERVED)
def test_gradients_to_the_weight_and_to_the_scale(bits):
    weight = weight_of(LAYOUT)
    quantizer = quantizer_of("nested", LAYOUT, SERVED, weight)
    with torch.no_grad():
        quantizer.scale *= 0.5  # so that something is clipped
    weight.requires_grad_()
    upstream = torch.randn(LAYOUT.shape)
    value = quantizer.candidate(weight, bits)
    value.backward(upstream)
    stored = quantizer.scale.detach().half().float()
    level = torch.round(weight.detach() / LAYOUT.expand(stored[:, -1:]))
    inside = (level >= -128) & (level <= 127)
    assert not inside.all() and torch.equal(weight.grad, upstream * inside)
    position = SERVED.index(bits)
    slope = value.detach() / LAYOUT.expand(stored[:, position : position + 1])
    expected = LAYOUT.reduce(upstream * slope, "sum") / (torch.tensor(LAYOUT.numel) * 2**7) ** 0.5
    torch.testing.assert_close(quantizer.scale.grad[:, position], expected, rtol=1e-4, atol=1e-5)
    others = [k for k in range(len(SERVED)) if k != position]
    assert not quantizer.scale.grad[:, others].any()


def plain(quantizer, weight, bits):
    """A precision by torch's own operators, which find the gradients: straight-through to what is not clipped."""
    scales, place = quantizer._scales(weight), quantizer.precisions.index(bits)
    step, scale = (quantizer.layout.expand(scales[:, [one]]) for one in (-1, place))
    lines = quantizer.layout.lines(weight)
    raw = torch.round(lines.detach() / step.detach()) + 128
    level = torch.floor(raw.clamp(0, 255) / 2 ** (8 - bits)) - Nested.zero(bits, 8)
    passed = torch.where((raw >= 0) & (raw <= 255), lines, lines.detach())
    return quantizer.layout.lines(level * scale + (passed - passed.detach()))


def gradients(quantizer, weight, value, upstream, *others):
    quantizer.scale.grad = None
    return value.detach(), *torch.autograd.grad(value, (weight, quantizer.scale, *others), upstream)


@pytest.mark.parametrize("name", ["uneven rows", "columns:3"])
@pytest.mark.parametrize("choice", ["one each", "a mixture"])
def test_one_operation_gives_what_plain_ones_give(name, choice):
    layout = LAYOUT if name == "uneven rows" else SubgroupLayout.of("columns:3", (6, 10))
    weight = weight_of(layout)
    quantizer = QUANTIZERS["nested"](layout, (0, *SERVED))
    quantizer.calibrate(weight * 0.7)
    weight.requires_grad_()
    upstream, index = torch.randn(layout.shape), torch.arange(layout.count) % 5
    given = torch.randn(layout.count, 5).softmax(1) if choice == "a mixture" else torch.eye(5)[index]
    given.requires_grad_()
    parts = [
        quantizer._broadcast(given[:, place]) * plain(quantizer, weight, bits)
        for place, bits in enumerate(SERVED, start=1)
    ]
    want = gradients(quantizer, weight, sum(parts), upstream, given)
    chosen = Choice(probabilities=given) if choice == "a mixture" else Choice(index=index)
    shares = (given,) if choice == "a mixture" else ()
    found = gradients(quantizer, weight, quantizer(weight, chosen), upstream, *shares)
    for one, other in zip(found, want):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_some_rows_are_those_of_the_whole_table():
    weight, rows = weight_of(LAYOUT).requires_grad_(), torch.tensor([9, 0, 9, 4])
    quantizer = quantizer_of("nested", LAYOUT, SERVED, weight.detach())
    choice, upstream = Choice(index=torch.arange(LAYOUT.count) % 4), torch.randn(4, 10)
    found = gradients(quantizer, weight, quantizer.rows(weight, choice, rows), upstream)
    want = gradients(quantizer, weight, quantizer(weight, choice).index_select(0, rows), upstream)
    assert all(torch.allclose(one, other) for one, other in zip(found, want)) and torch.equal(found[0], want[0])


@pytest.mark.skipif(not compiler_present(), reason="there is no compiler")
@pytest.mark.full
def test_large_weights_are_compiled_to_the_same():
    layout = SubgroupLayout((64, 1024), 8)
    weight = weight_of(layout).requires_grad_()
    quantizer = quantizer_of("nested", layout, SERVED, weight.detach())
    choice, upstream = Choice(index=torch.arange(8) % 4), torch.randn(layout.shape)
    found = gradients(quantizer, weight, quantizer(weight, choice), upstream)
    parts = [
        quantizer._broadcast(choice.index == place) * plain(quantizer, weight, bits)
        for place, bits in enumerate(SERVED)
    ]
    want = gradients(quantizer, weight, sum(parts), upstream)
    assert torch.equal(found[0], want[0]) and torch.equal(found[1], want[1])
    torch.testing.assert_close(found[2], want[2], rtol=1e-4, atol=1e-5)


def test_only_the_highest_precision_is_stored():
    weight = weight_of(LAYOUT)
    quantizer = quantizer_of("nested", LAYOUT, SERVED, weight)
    with pytest.raises(ValueError, match="stored at the highest precision, 8 bits, not at 4"):
        quantizer.encode(weight, 4)
    assert quantizer.encode(weight, 8)[1].shape == (4, 4)
    assert QUANTIZERS["nested"](LAYOUT, (2, 4)).top == 4


ROWS = {
    "gaussian": lambda rows, length: torch.randn(rows, length),
    "laplace": lambda rows, length: torch.empty(rows, length).exponential_() * torch.randn(rows, length).sign(),
}


@pytest.mark.parametrize("served", [(2, 3, 4, 8), (2, 4, 8), (3, 8), (2, 4)], ids=str)
@pytest.mark.parametrize("draw", ROWS.values(), ids=ROWS)
def test_low_precisions_start_near_what_a_grid_of_their_own_gives(draw, served):
    weight = draw(24, 768)
    layout = SubgroupLayout(weight.shape, 8)
    nested = quantizer_of("nested", layout, served, weight)
    own = quantizer_of("symmetric", layout, served, weight)
    error = lambda one, bits: (one.candidate(weight, bits).detach() - weight).square().sum()  # noqa: E731
    assert all(error(nested, bits) <= 1.25 * error(own, bits) for bits in served if bits <= 4)


@pytest.mark.parametrize("served", [SERVED, (2, 8)], ids=str)
def test_rows_with_heavy_tails_keep_a_range_at_which_8_bits_are_of_use(served):
    weight = torch.distributions.StudentT(2.0).sample((24, 512))
    quantizer = quantizer_of("nested", SubgroupLayout(weight.shape, 6), served, weight)
    errors = [(quantizer.candidate(weight, bits) - weight).square().sum().item() for bits in served]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[-2] / 2
