"""A grid that no longer changes: what ranges learned in training are packed as."""

import torch
from torch import Tensor

from ...core import from_bytes, to_bytes
from .base import ACTIVATIONS, ActivationGrid, ActivationQuantizer


@ACTIVATIONS.register("fixed")
class FixedGridQuantizer(ActivationQuantizer):
    """One step and zero point per tensor, kept as bytes so that no cast changes them.

    Infinity and NaN, which no level stands for, stay visible: `rounded` gives NaN for them, and in the grid of `encode`
    the step of a row that holds one is NaN.
    """

    name = "fixed"
    stored_bytes = 8
    packed_form = True

    def __init__(self, bits: int = 8, symmetric: bool = False):
        super().__init__(bits, symmetric)
        self.register_buffer("grid_bytes", to_bytes(torch.tensor([1.0, 0.0]), torch.float32))

    @classmethod
    def of(cls, quantizer: ActivationQuantizer, grid: ActivationGrid) -> "FixedGridQuantizer":
        """Freeze the grid of another quantizer."""
        fixed = cls(quantizer.bits, quantizer.symmetric).to(grid.step.device)
        fixed.grid_bytes.copy_(to_bytes(torch.stack([grid.step, grid.zero]), torch.float32))
        return fixed

    @torch.no_grad()
    def set_bits(self, bits: int) -> None:
        before = self.grid(self.grid_bytes)
        low, high = (before.step * (level - before.zero) for level in (before.low, before.high))
        super().set_bits(bits)
        grid = self.grid_of_range(low, high)
        self.grid_bytes.copy_(to_bytes(torch.stack([grid.step, grid.zero]), torch.float32))

    def grid(self, x: Tensor) -> ActivationGrid:
        step, zero = from_bytes(self.grid_bytes, torch.float32)
        levels = 2 ** (self.bits - 1) - 1
        low, high = (-levels, levels) if self.symmetric else (0, 2**self.bits - 1)
        return ActivationGrid(step, zero, low, high)

    @torch.no_grad()
    def rounded(self, x: Tensor) -> Tensor:
        return super().rounded(x).add_(x, alpha=0)

    def encode(self, x: Tensor) -> tuple[Tensor, ActivationGrid]:
        codes, grid = super().encode(x)
        return codes, grid._replace(step=grid.step + (x.float() * 0).sum(-1, keepdim=True))
