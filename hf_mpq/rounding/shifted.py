"""Weights rounded with learned shifts and steps, as one operation with a hand-written backward.

With `r = w / step - half + shift` a value is `(clamp(round(r), low, high) + half) step`, and zero where it is not kept.
Gradients are straight-through: to a shift, the upstream one times the step where the level is not beyond the last ones;
to a step, the upstream one times `level + half - w / step` there, and `level + half` beyond.
"""

import torch
from torch import Tensor

from ..weights.compilation import compiled_when_large
from .grids import LevelGrid


class ShiftedRounding(torch.autograd.Function):
    """`ShiftedRounding.apply(shift, step, weight, grid, dtype)`: `(out, in)`, in a type; `step` in place of the grid's
    own."""

    @staticmethod
    def forward(ctx, shift: Tensor, step: Tensor, weight: Tensor, grid: LevelGrid, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(shift, step, weight, *grid[1:])
        return shifted_values(shift.detach(), step.detach(), weight, *grid[1:], dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        shift, step, *others = ctx.saved_tensors
        to_shift, to_step = shifted_gradients(gradient, shift.detach(), step.detach(), *others)
        return to_shift, to_step, None, None, None


def shifted_level(shift: Tensor, step: Tensor, weight: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Weights in steps, and the nearest level of each before it is clamped."""
    ratio = weight / torch.where(step == 0, 1.0, step)
    return ratio, torch.round(ratio - half + shift)


@compiled_when_large
def shifted_values(
    shift: Tensor,
    step: Tensor,
    weight: Tensor,
    low: Tensor,
    high: Tensor,
    half: Tensor,
    kept: Tensor,
    dtype: torch.dtype,
):
    """The rounded weights, `(out, in)`."""
    level = torch.clamp(shifted_level(shift, step, weight, half)[1], low, high)
    return torch.where(kept, (level + half) * step, 0.0).to(dtype)


@compiled_when_large
def shifted_gradients(
    gradient: Tensor,
    shift: Tensor,
    step: Tensor,
    weight: Tensor,
    low: Tensor,
    high: Tensor,
    half: Tensor,
    kept: Tensor,
):
    """Gradients of the shifts, `(out, in)`, and of the steps, of their shape."""
    ratio, level = shifted_level(shift, step, weight, half)
    inside = (level >= low) & (level <= high)
    passed = torch.where(kept, gradient.float(), 0.0)
    reached = torch.clamp(level, low, high) + half
    to_step = passed * torch.where(inside, reached - ratio, reached)
    return torch.where(inside, passed * step, 0.0), to_step.sum_to_size(step.shape)


@compiled_when_large
def move_by_sign(value: Tensor, gradient: Tensor, rate: Tensor, low: float, high: float) -> None:
    """One step of signed gradient descent within bounds, in place; rate `()`."""
    value.sub_(rate * torch.sign(gradient)).clamp_(low, high)
