"""Straight-through helpers: a forward value with another value's gradient.

Unlike `x + (y - x).detach()`, whose float sum is not exactly `y`, these return `y` itself, so that what is trained is
bit for bit what is stored.
"""

import torch
from torch import Tensor


class _ReplaceForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, source: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, None


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, source: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return source.view_as(source)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient * ctx.factor, None


def replace_forward(source: Tensor, value: Tensor) -> Tensor:
    """Return `value` exactly, and pass its gradient to `source` unchanged (Bengio et al., 2013).

    The result shares the memory of `value`, which must be nobody else's.
    """
    return _ReplaceForward.apply(source, value.detach())


def scale_gradient(source: Tensor, factor: float) -> Tensor:
    """Return `source` unchanged, with its gradient multiplied by `factor` (LSQ, Esser et al., 2020, section 2.2)."""
    return _ScaleGradient.apply(source, factor)


def to_stored_type(source: Tensor, dtype: torch.dtype) -> Tensor:
    """Round `source` to what it will be once stored as `dtype`, straight-through; saturates instead of overflowing."""
    limit = torch.finfo(dtype).max
    wide = source.detach() if source.dtype.itemsize >= 4 else source.detach().float()
    return replace_forward(source, wide.clamp(-limit, limit).to(dtype).to(source.dtype))
