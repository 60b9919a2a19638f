"""Weights rounded with learned shifts and steps, and one step of learning them by the sign of their gradients.

With `r = w / step - half + shift` a value is `(clamp(round(r), low, high) + half) step`, and zero where it is not kept.
Gradients are straight-through: to a shift, the upstream one times the step where the level is not beyond the last ones;
to a step, the upstream one times `level + half - w / step` there, and `level + half` beyond.
"""

import torch
from torch import Tensor

from ..weights.compilation import compiled_when_large


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
) -> Tensor:
    """The rounded weights, `(out, in)`."""
    level = torch.clamp(shifted_level(shift, step, weight, half)[1], low, high)
    return torch.where(kept, (level + half) * step, 0.0).to(dtype)


@compiled_when_large
def move_shifts(
    gradient: Tensor,
    shift: Tensor,
    step: Tensor,
    weight: Tensor,
    low: Tensor,
    high: Tensor,
    half: Tensor,
    kept: Tensor,
    rate: Tensor,
) -> Tensor:
    """Move shifts against the signs of their gradients, within -1/2 and 1/2, in place.

    Args:
        gradient: of the rounded weights, `(out, in)`.
        rate: how far, `()`.

    Returns:
        The gradient of the steps, of their shape.
    """
    ratio, level = shifted_level(shift, step, weight, half)
    inside = (level >= low) & (level <= high)
    passed = torch.where(kept, gradient.float(), 0.0)
    reached = torch.clamp(level, low, high) + half
    to_step = (passed * torch.where(inside, reached - ratio, reached)).sum_to_size(step.shape)
    shift.sub_(rate * torch.sign(torch.where(inside, passed * step, 0.0))).clamp_(-0.5, 0.5)
    return to_step
