"""Quantizers whose levels are an arithmetic progression: they share the fused operation."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from ...core import constant, to_stored_type
from ..choice import Choice
from ..fused import LineGrid, Mixture
from ..rounding_gradients import RoundingGradient
from .base import WeightQuantizer


@dataclass(frozen=True)
class Grid:
    """Integer levels `low` to `high`, moved by `half` (0 or 1/2), in steps.

    A level's code is `level + zero`. Values beyond `clip_low` or `clip_high` (in levels) pass no gradient.
    """

    low: int
    high: int
    half: float
    zero: int
    clip_low: float
    clip_high: float

    @classmethod
    def signed(cls, bits: int, half_step: bool, narrow: bool) -> "Grid":
        """Levels around zero: half-step, or integer and then with as many below zero as above when `narrow`."""
        zero = 2 ** (bits - 1)
        low, high = -zero, zero - 1
        if half_step:
            return cls(low, high, 0.5, zero, low - 0.5, high + 0.5)
        low = low + 1 if narrow else low
        return cls(low, high, 0.0, zero, low, high)

    @classmethod
    def unsigned(cls, bits: int) -> "Grid":
        """Levels 0 to `2 ** bits - 1`, nothing clipped."""
        return cls(0, 2**bits - 1, 0.0, 0, -inf, inf)


class LineParameters(NamedTuple):
    """What the fused operation needs for each line, each `(lines, candidates)`; constants of the grid may have one
    line for all."""

    probabilities: Tensor
    step: Tensor
    offset: Tensor | None
    grid: LineGrid
    largest: Tensor | None = None


class GridQuantizer(WeightQuantizer):
    """Base of the quantizers with steps, and offsets where the grid does not lie around zero.

    Attributes:
        gradient: rule for the gradient of rounding; None is straight-through.
    """

    gradient: RoundingGradient | None = None

    @abstractmethod
    def grid(self, bits: int) -> Grid:
        """Levels at a precision."""

    @abstractmethod
    def steps(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """Step and offset of each sub-group and precision, `(groups, precisions)`, rounded to their stored type."""

    def line_parameters(self, weight: Tensor, choice: Choice, rows: Tensor | None = None) -> LineParameters:
        """What the fused operation needs for each line, or for some."""
        expand = self.layout.expand
        if rows is not None:
            index = self.layout.index(weight.device)[rows]
            expand = lambda values: values.index_select(0, index)  # noqa: E731
        if choice.levels is not None:
            return self._levels(weight, *choice.levels, expand)
        steps, offsets = self.steps(weight)
        pruned = self.candidates.count(0)
        if choice.probabilities is not None:
            lines = None if offsets is None else expand(offsets)
            return LineParameters(
                expand(choice.probabilities[:, pruned:]), expand(steps), lines, self._constants(weight)
            )
        if len(self.candidates) == 1:
            step = expand(steps)
            keep = constant(((1.0,),), weight.dtype, weight.device).expand_as(step)
            offsets = None if offsets is None else expand(offsets)
            return LineParameters(keep, step, offsets, self._constants(weight))
        position = (choice.index - pruned).clamp(min=0)
        grid = LineGrid(*expand(self._table(weight)[position]).split(1, dim=1))
        keep = expand((choice.index >= pruned).to(weight.dtype).unsqueeze(1))
        position = position.unsqueeze(1)
        offsets = None if offsets is None else expand(offsets.gather(1, position))
        return LineParameters(keep, expand(steps.gather(1, position)), offsets, grid)

    def _levels(self, weight: Tensor, step: Tensor, highest: Tensor, expand: Callable) -> LineParameters:
        """Those of a grid that the gate sets, under the learned range: what is larger is clipped."""
        of_lines = lambda values: expand(values.to(weight.dtype).unsqueeze(1))  # noqa: E731
        step, largest, high = (of_lines(values) for values in (step, self.largest(), highest))
        step = to_stored_type(step, self.scale_dtype)
        end = (largest / step).detach()
        grid = LineGrid(-high, high, torch.zeros_like(high), -end, end)
        return LineParameters(torch.ones_like(high), step, None, grid, largest)

    def forward(self, weight: Tensor, choice: Choice) -> Tensor:
        if choice.passes:
            return weight
        if not self.precisions:
            return torch.zeros_like(weight)
        parameters = self.line_parameters(weight, choice)
        return self.layout.lines(Mixture.apply(self.layout.lines(weight), *parameters, self.gradient))

    def rows(self, weight: Tensor, choice: Choice, rows: Tensor) -> Tensor:
        if self.layout.axis == 1 or not self.precisions or choice.passes:
            return super().rows(weight, choice, rows)
        return Mixture.apply(weight.index_select(0, rows), *self.line_parameters(weight, choice, rows), self.gradient)

    def candidate(self, weight: Tensor, bits: int) -> Tensor:
        index = torch.full((self.layout.count,), self.candidates.index(bits), device=weight.device)
        return self(weight, Choice(index=index))

    def encode(self, weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        steps, offsets = self.steps(weight)
        k, grid = self.precisions.index(bits), self.grid(bits)
        floats = [steps[:, k]] if offsets is None else [steps[:, k], offsets[:, k]]
        levels = torch.clamp(torch.round(self._exact(weight, bits)), grid.low, grid.high)
        return (levels + grid.zero).to(torch.uint8), torch.stack(floats, dim=1)

    def distances(self, weight: Tensor, bits: int) -> Tensor:
        exact, grid = self._exact(weight, bits), self.grid(bits)
        return exact.clamp(grid.low, grid.high) - torch.clamp(torch.round(exact), grid.low, grid.high)

    def _exact(self, weight: Tensor, bits: int) -> Tensor:
        """Level of each weight before it is rounded, `(lines, length)`."""
        steps, offsets = self.steps(weight)
        k, lines = self.precisions.index(bits), self.layout.lines(weight)
        step = self.layout.expand(steps[:, k : k + 1])
        shifted = lines if offsets is None else lines - self.layout.expand(offsets[:, k : k + 1])
        return shifted / torch.where(step == 0, torch.ones_like(step), step) - self.grid(bits).half

    def _constants(self, weight: Tensor) -> LineGrid:
        """Grid constants of every precision, each `(1, precisions)`."""
        return LineGrid(*(constant((row,), weight.dtype, weight.device) for row in zip(*self._rows())))

    def _table(self, weight: Tensor) -> Tensor:
        """The same in one tensor, `(precisions, fields of a LineGrid)`."""
        return constant(self._rows(), weight.dtype, weight.device)

    def _rows(self) -> tuple[tuple[float, ...], ...]:
        grids = [self.grid(bits) for bits in self.precisions]
        return tuple(tuple(getattr(grid, name) for name in LineGrid._fields) for grid in grids)
