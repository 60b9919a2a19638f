"""Codes whose top planes are those of lower precisions, as one operation with a hand-written backward.

With `u = clamp(round(w / step) + 2^(top-1), 0, 2^top - 1)`, candidate k gives `(floor(u / 2^(top-bits_k)) - zero_k) *
scale_k`, and the result is the sum over k weighted by the probabilities. All constants are per line of the weight, so
that a fixed assignment is the case of one candidate that differs from line to line.

Gradients: to the weight, each candidate's probability times the upstream gradient where `u` is not clipped; to a scale,
its probability times the inner product of the upstream gradient with the levels; to a probability, the inner product
with the candidate. The step is the scale of the top precision, and has no other gradient. Nothing but the inputs is
kept for backward.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .compilation import compiled_when_large


class CascadeGrid(NamedTuple):
    """Constants of the candidates, each `(lines or 1, candidates)`: what codes of the top precision are divided by,
    and the code that stands for zero."""

    divisor: Tensor
    zero: Tensor


def _codes(weight: Tensor, step: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Codes of the top precision and where they are not clipped, both `(lines, length)`."""
    raw = torch.round(weight / torch.where(step == 0, torch.ones_like(step), step)) + 2 ** (top - 1)
    codes = raw.clamp(0, 2**top - 1)
    return codes, raw == codes


def _level(codes: Tensor, grid: CascadeGrid, k: int) -> Tensor:
    return torch.floor(codes / grid.divisor[:, k : k + 1]) - grid.zero[:, k : k + 1]


@compiled_when_large
def top_codes(weight: Tensor, step: Tensor, top: int) -> Tensor:
    """Codes of the top precision, `(lines, length)`, as floats.

    Args:
        weight: `(lines, length)`.
        step: `(lines, 1)`.
        top: bits of the top precision.
    """
    return _codes(weight, step, top)[0]


@compiled_when_large
def cascade_forward(
    weight: Tensor, probabilities: Tensor, scale: Tensor, step: Tensor, grid: CascadeGrid, top: int
) -> Tensor:
    """Weighted sum of the candidates: `(lines, length)`."""
    codes, total = _codes(weight, step, top)[0], None
    for k in range(scale.shape[1]):
        term = probabilities[:, k : k + 1] * (_level(codes, grid, k) * scale[:, k : k + 1])
        total = term if total is None else total + term
    return total


@compiled_when_large
def cascade_backward(
    weight: Tensor,
    gradient: Tensor,
    probabilities: Tensor,
    scale: Tensor,
    step: Tensor,
    grid: CascadeGrid,
    top: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `weight`, `probabilities` and `scale`."""
    codes, inside = _codes(weight, step, top)
    to_scale = torch.stack([(gradient * _level(codes, grid, k)).sum(1) for k in range(scale.shape[1])], dim=1)
    to_weight = torch.where(inside, gradient * probabilities.sum(1, keepdim=True), 0.0)
    return to_weight, to_scale * scale, to_scale * probabilities


class Cascade(torch.autograd.Function):
    """`Cascade.apply(weight, probabilities, scale, step, grid, top)`; see the module's page for gradients.

    Shapes: weight `(lines, length)`, probabilities and scale `(lines, candidates)`, step `(lines, 1)`.
    """

    @staticmethod
    def forward(
        ctx, weight: Tensor, probabilities: Tensor, scale: Tensor, step: Tensor, grid: CascadeGrid, top: int
    ) -> Tensor:
        ctx.save_for_backward(weight, probabilities, scale, step, *grid)
        ctx.top = top
        plain = (tensor.detach() for tensor in (weight, probabilities, scale, step))
        return cascade_forward(*plain, grid, top)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        weight, probabilities, scale, step, *grid = (tensor.detach() for tensor in ctx.saved_tensors)
        found = cascade_backward(weight, gradient, probabilities, scale, step, CascadeGrid(*grid), ctx.top)
        return *found, None, None, None
