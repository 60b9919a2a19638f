"""The mixture of quantized candidates as one operation, with a hand-written backward that recomputes the candidates.

With `r = (w - offset) / step - half`, candidate k gives `(clamp(round(r), low, high) + half) * step + offset`, and the
result is the sum over k weighted by the probabilities. All constants are per line of the weight, so that a fixed
assignment is the case of one candidate whose grid differs from line to line.

Gradients: to the weight, each candidate's probability times the upstream gradient where the candidate does not clip
(AQ-BERT: everywhere); to a probability, the inner product of the upstream gradient with that candidate; to step and
offset, LSQ's (Esser et al., 2020, equation 3) and LSQ+'s (Bhalgat et al., 2020). Where the largest value is learned
apart from the step, what is clipped moves it by its sign, and the step not at all. A rule for rounding changes the
gradient to the weight alone. Nothing but the inputs is kept for backward.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .compilation import compiled_when_large
from .rounding_gradients import RoundingGradient


class LineGrid(NamedTuple):
    """Grid constants, each `(lines or 1, candidates)`: integer levels `low` to `high`, moved by `half`; a value whose
    `r` is below `clip_low` or above `clip_high` is clipped and passes no gradient."""

    low: Tensor
    high: Tensor
    half: Tensor
    clip_low: Tensor
    clip_high: Tensor


def _column(values: Tensor, k: int) -> Tensor:
    return values[:, k : k + 1]


def _levels(weight: Tensor, step: Tensor, offset: Tensor | None, grid: LineGrid, k: int) -> tuple[Tensor, Tensor]:
    """Unrounded and rounded level of each weight for candidate k, both `(lines, length)`."""
    size = _column(step, k)
    size = torch.where(size == 0, torch.ones_like(size), size)
    shifted = weight if offset is None else weight - _column(offset, k)
    exact = shifted / size - _column(grid.half, k)
    return exact, torch.clamp(torch.round(exact), _column(grid.low, k), _column(grid.high, k))


def _value(level: Tensor, step: Tensor, offset: Tensor | None, grid: LineGrid, k: int) -> Tensor:
    value = (level + _column(grid.half, k)) * _column(step, k)
    return value if offset is None else value + _column(offset, k)


@compiled_when_large
def mixture_forward(weight: Tensor, probabilities: Tensor, step: Tensor, offset: Tensor | None, grid: LineGrid):
    """Weighted sum of the candidates: `(lines, length)`."""
    total = None
    for k in range(step.shape[1]):
        level = _levels(weight, step, offset, grid, k)[1]
        term = _column(probabilities, k) * _value(level, step, offset, grid, k)
        total = term if total is None else total + term
    return total


@compiled_when_large
def mixture_backward(
    weight: Tensor,
    gradient: Tensor,
    probabilities: Tensor,
    step: Tensor,
    offset: Tensor | None,
    grid: LineGrid,
    learn_grid: bool,
    learn_largest: bool = False,
    rounding: RoundingGradient | None = None,
):
    """Gradients of `weight`, `probabilities`, `step`, `offset` and the largest value; the last three are None unless
    the grid, or the largest value apart from the step, is learned."""
    to_weight = torch.zeros_like(weight)
    to_probability, to_step, to_offset, to_largest = [], [], [], []
    for k in range(step.shape[1]):
        exact, level = _levels(weight, step, offset, grid, k)
        inside = (exact >= _column(grid.clip_low, k)) & (exact <= _column(grid.clip_high, k))
        share = _column(probabilities, k) * gradient
        passed = share if rounding is None else rounding(share, exact - level)
        to_weight = to_weight + torch.where(inside, passed, 0.0)
        to_probability.append((gradient * _value(level, step, offset, grid, k)).sum(1))
        if learn_grid:
            beyond = 0.0 if learn_largest else level + _column(grid.half, k)
            slope = torch.where(inside, level - exact, beyond)
            to_step.append((share * slope).sum(1))
            to_offset.append(torch.where(inside, 0.0, share).sum(1))
        if learn_largest:
            to_largest.append((share * torch.where(inside, 0.0, exact.sign())).sum(1))
    stack = lambda parts: torch.stack(parts, dim=1) if parts else None  # noqa: E731
    return to_weight, stack(to_probability), stack(to_step), stack(to_offset), stack(to_largest)


class Mixture(torch.autograd.Function):
    """`Mixture.apply(weight, probabilities, step, offset, grid, largest, rounding)`; see the module's page for shapes
    and gradients. The largest value, `(lines, candidates)`, is in the grid already: it is given for its gradient."""

    @staticmethod
    def forward(
        ctx,
        weight: Tensor,
        probabilities: Tensor,
        step: Tensor,
        offset: Tensor | None,
        grid: LineGrid,
        largest: Tensor | None = None,
        rounding: RoundingGradient | None = None,
    ):
        ctx.save_for_backward(weight, probabilities, step, offset, *grid)
        ctx.rounding = rounding
        plain = (tensor if tensor is None else tensor.detach() for tensor in (weight, probabilities, step, offset))
        return mixture_forward(*plain, grid)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        weight, probabilities, step, offset, *grid = (t if t is None else t.detach() for t in ctx.saved_tensors)
        learn_grid = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        to_weight, to_probability, to_step, to_offset, to_largest = mixture_backward(
            weight,
            gradient,
            probabilities,
            step,
            offset,
            LineGrid(*grid),
            learn_grid,
            any(ctx.needs_input_grad[5:6]),
            ctx.rounding,
        )
        return to_weight, to_probability, to_step, to_offset if offset is not None else None, None, to_largest, None
