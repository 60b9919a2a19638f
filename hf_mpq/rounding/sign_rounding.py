"""One weight whose rounding and scales are being learned."""

import torch
from torch import Tensor

from ..core import to_stored_type
from ..nn import MPQLinear
from .grids import LevelGrid, target_weight, write_values
from .shifted import move_shifts, shifted_level, shifted_values

NARROWEST, WIDEST = 0.5, 1.5
"""Range of what scales may be multiplied by."""


class SignRounding:
    """`w_hat = s a (clip(round(w / (s a) - half + V), low, high) + half)` with `s a` rounded to its stored type.

    Attributes:
        shift: V, `(out, in)`, from -1/2 to 1/2.
        factor: a, one for each sub-group, `(groups,)`, from 0.5 to 1.5.
    """

    def __init__(self, layer: MPQLinear):
        self.layer, self.grid, self.weight = layer, LevelGrid.of(layer), target_weight(layer)
        self.shift = torch.zeros_like(self.weight)
        self.factor = torch.ones(layer.spec.layout.count, device=self.weight.device)

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """The weight used in forward, `(out, in)`, in the type that its products are in."""
        grid, kind, dtype = self._scaled(), self.weight.device.type, self.layer.weight.dtype
        if dtype == torch.float32 and torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        return shifted_values(self.shift, grid.step, self.weight, *grid[1:], dtype)

    def _scaled(self) -> LevelGrid:
        layout, dtype = self.layer.spec.layout, self.layer.program.quantizer.scale_dtype
        factor = layout.lines(layout.expand(self.factor.unsqueeze(1)))  # of each line: (out, 1) or (1, in)
        return self.grid._replace(step=to_stored_type(self.grid.step * factor, dtype))

    def _levels(self, grid: LevelGrid) -> Tensor:
        return grid.clamp(shifted_level(self.shift, grid.step, self.weight, grid.half)[1])

    @torch.no_grad()
    def move(self, gradient: Tensor, rate: float, scales: bool = True) -> None:
        """One step of signed gradient descent within bounds; `gradient` of the weight as it is now, `(out, in)`.

        Args:
            scales: whether factors move, too.
        """
        grid, rate = self._scaled(), torch.tensor(rate, device=gradient.device)
        to_step = move_shifts(gradient, self.shift, grid.step, self.weight, *grid[1:], rate)
        if scales:
            to_factor = self.layer.spec.layout.reduce(to_step * self.grid.step, "sum")  # rounding is straight-through
            self.factor.sub_(rate * torch.sign(to_factor)).clamp_(NARROWEST, WIDEST)

    def state(self) -> list[Tensor]:
        """A copy of what is learned."""
        return [self.shift.clone(), self.factor.clone()]

    def load(self, state: list[Tensor]) -> None:
        """Take back a copy."""
        self.shift.copy_(state[0])
        self.factor.copy_(state[1])

    @torch.no_grad()
    def write(self) -> None:
        """Put scales and chosen levels into the layer."""
        scaled = self._scaled()
        levels, layout = self._levels(scaled), self.layer.spec.layout
        first = torch.tensor(layout.sizes).cumsum(0) - torch.tensor(layout.sizes)
        steps = layout.lines(scaled.step)[first.to(scaled.step.device)]  # (groups, 1)
        bits, quantizer = self.layer.program.gate.derive(), self.layer.program.quantizer
        for precision in quantizer.precisions:
            groups = (bits == precision).nonzero().flatten()
            quantizer.restore(precision, groups, steps[groups])
        grid = LevelGrid.of(self.layer)
        write_values(self.layer, grid, grid.values(levels))
