"""Weights that ranges and scales stumble over."""

import pytest
import torch

from hf_mpq.core import SubgroupLayout
from hf_mpq.weights import QUANTIZERS, Choice
from tests.weights.cases import bits_of, decoded, quantizer_of

LAYOUT = SubgroupLayout((6, 8), 3)
OF_EIGHT_BITS = [name for name in QUANTIZERS if 8 in bits_of(name)]
WEIGHTS = {
    "constant": torch.full((6, 8), 0.3),
    "negative constant": torch.full((6, 8), -0.3),
    "zero": torch.zeros(6, 8),
    "one zero sub-group": torch.cat([torch.zeros(2, 8), torch.linspace(-1, 1, 32).view(4, 8)]),
    "huge": torch.linspace(-1e4, 1e4, 48).view(6, 8),
    "tiny": torch.linspace(-1e-7, 1e-7, 48).view(6, 8),
    "beyond float16": torch.linspace(-1e6, 1e6, 48).view(6, 8),
}


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("name", list(QUANTIZERS))
def test_values_codes_and_gradients_stay_finite(name, weight):
    quantizer = quantizer_of(name, LAYOUT, bits_of(name), weight)
    for bits in bits_of(name):
        value, codes, floats = decoded(quantizer, weight, bits)
        assert value.isfinite().all() and floats.isfinite().all() and int(codes.max()) < 2**bits
        assert torch.equal(value, quantizer.candidate(weight, bits))
    source = weight.clone().requires_grad_()
    probabilities = torch.full((3, len(bits_of(name))), 1 / len(bits_of(name)), requires_grad=True)
    quantizer(source, Choice(probabilities=probabilities)).sum().backward()
    for tensor in (source, probabilities, *quantizer.parameters()):
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("weight", ["constant", "negative constant", "huge"])
@pytest.mark.parametrize("name", OF_EIGHT_BITS)
def test_eight_bits_are_close(name, weight):
    weight = WEIGHTS[weight]
    value = quantizer_of(name, LAYOUT, (8,), weight).candidate(weight, 8)
    assert (value - weight).abs().max() < 0.01 * weight.abs().max()


@pytest.mark.parametrize("name", list(QUANTIZERS))
def test_zeros_stay_zero_up_to_the_smallest_step(name):
    weight = WEIGHTS["one zero sub-group"]
    quantizer = quantizer_of(name, LAYOUT, bits_of(name), weight)
    for bits in bits_of(name):
        assert LAYOUT.split(quantizer.candidate(weight, bits))[0].abs().max() <= 1e-6


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
@pytest.mark.parametrize("name", OF_EIGHT_BITS)
def test_single_rows_columns_and_weights(name, shape):
    weight = torch.linspace(-0.5, 1, 9)[-shape[0] * shape[1] :].view(shape)
    layout = SubgroupLayout(shape, 4)
    value = quantizer_of(name, layout, (8,), weight).candidate(weight, 8)
    assert (value - weight).abs().max() < 0.01


@pytest.mark.parametrize("name", list(QUANTIZERS))
def test_nothing_but_pruned_is_zero(name):
    quantizer = QUANTIZERS[name](LAYOUT, (0, 4))
    source = WEIGHTS["huge"].clone().requires_grad_()
    value = quantizer(source, Choice(index=torch.zeros(3, dtype=torch.int64)))
    value.sum().backward()
    assert not value.any() and not source.grad.any()


@pytest.mark.parametrize("name", [name for name in QUANTIZERS if name != "nested"])
def test_zero_bits_as_the_only_candidate(name):
    quantizer = quantizer_of(name, LAYOUT, (0,), WEIGHTS["huge"])
    for choice in (Choice(index=torch.zeros(3, dtype=torch.int64)), Choice(probabilities=torch.ones(3, 1))):
        assert not quantizer(WEIGHTS["huge"], choice).any()


def test_a_subgroup_that_starts_at_zero_learns_a_step():
    weight, target = torch.zeros(6, 8, requires_grad=True), WEIGHTS["one zero sub-group"]
    quantizer = quantizer_of("lsq", LAYOUT, (4,), weight.detach())
    optimizer = torch.optim.Adam([weight, *quantizer.parameters()], 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        (quantizer.candidate(weight, 4) - target).square().mean().backward()
        optimizer.step()
    assert (quantizer.candidate(weight, 4) - target).abs().max() < 0.3
