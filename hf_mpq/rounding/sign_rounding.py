"""One weight whose rounding and scales are being learned."""

import torch
from torch import Tensor

from ..core import to_stored_type
from ..nn import MPQLinear
from .grids import LevelGrid, target_weight, write_values
from .shifted import ShiftedRounding, move_by_sign, shifted_level

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
        self.shift = torch.zeros_like(self.weight).requires_grad_()
        self.factor = torch.ones(layer.spec.layout.count, device=self.weight.device).requires_grad_()

    @property
    def parameters(self) -> list[Tensor]:
        """What is learned; the first are shifts of weights, the second factors of scales."""
        return [self.shift, self.factor]

    def __call__(self) -> Tensor:
        """The weight used in forward, straight-through, `(out, in)`, in the type that its products are in."""
        grid, kind, dtype = self._scaled(), self.weight.device.type, self.layer.weight.dtype
        if dtype == torch.float32 and torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        return ShiftedRounding.apply(self.shift, grid.step, self.weight, grid, dtype)

    def _scaled(self) -> LevelGrid:
        layout, dtype = self.layer.spec.layout, self.layer.program.quantizer.scale_dtype
        factor = layout.lines(layout.expand(self.factor.unsqueeze(1)))
        return self.grid._replace(step=to_stored_type(self.grid.step * factor, dtype))

    def _levels(self, grid: LevelGrid) -> Tensor:
        return grid.clamp(shifted_level(self.shift, grid.step, self.weight, grid.half)[1])

    @torch.no_grad()
    def move(self, gradients: list[Tensor | None], rate: float) -> None:
        """One step of signed gradient descent, within bounds."""
        bounds = ((-0.5, 0.5), (NARROWEST, WIDEST))
        for parameter, gradient, (low, high) in zip(self.parameters, gradients, bounds):
            if gradient is not None:
                move_by_sign(parameter.detach(), gradient, torch.tensor(rate, device=gradient.device), low, high)

    def state(self) -> list[Tensor]:
        """A copy of what is learned."""
        return [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def load(self, state: list[Tensor]) -> None:
        """Take back a copy."""
        for parameter, value in zip(self.parameters, state):
            parameter.copy_(value)

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
