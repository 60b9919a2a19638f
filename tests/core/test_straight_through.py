import pytest
import torch

from hf_mpq.core import replace_forward, scale_gradient, to_stored_type


def gradient_of(function, source, upstream):
    source = source.clone().requires_grad_()
    function(source).backward(upstream)
    return source.grad


def test_replace_forward_is_exact_where_adding_the_difference_is_not():
    source, value = torch.randn(1000) * 1e4, torch.randn(1000) * 1e-4
    assert torch.equal(replace_forward(source, value), value)
    assert not torch.equal(source + (value - source), value)


def test_replace_forward_passes_the_gradient_to_the_source_only():
    source, value = torch.randn(5), torch.randn(5, requires_grad=True)
    upstream = torch.randn(5)
    assert torch.equal(gradient_of(lambda x: replace_forward(x, value), source, upstream), upstream)
    assert value.grad is None


def test_scale_gradient_changes_only_the_gradient():
    source, upstream = torch.randn(5), torch.randn(5)
    assert torch.equal(scale_gradient(source, 0.1), source)
    assert torch.equal(gradient_of(lambda x: scale_gradient(x, 0.1), source, upstream), upstream * 0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_to_stored_type_survives_storing(dtype):
    source = torch.tensor([1 / 3, -1e-3, 1e6, -1e6, 0.0])
    rounded = to_stored_type(source, dtype)
    assert rounded.dtype == source.dtype and rounded.isfinite().all()
    assert torch.equal(rounded.to(dtype).to(source.dtype), rounded)
    assert torch.equal(gradient_of(lambda x: to_stored_type(x, dtype), source, torch.ones(5)), torch.ones(5))
