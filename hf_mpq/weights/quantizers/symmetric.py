"""Symmetric uniform quantization with one constant scale."""

from dataclasses import replace
from math import inf

import torch
from torch import Tensor

from ...core import to_stored_type
from .base import QUANTIZERS
from .grid import Grid
from .scan import scan_scale, widest_scale
from .signed import SignedGridQuantizer


@QUANTIZERS.register("symmetric")
class SymmetricQuantizer(SignedGridQuantizer):
    """One scale per sub-group and precision, set when calibrated and constant from then on.

    Straight-through inside the range, no gradient outside. At 1 bit the scan finds `mean |w|` (the optimum of BWN).

    Args:
        scale: `"scan"` for least squared error, `"max"` so that the largest |w| is the last level (ZeroQuant), or
            `"range"`, whose step is `2 max|w| / (2^bits - 1)`: as many levels as there are codes between the ends,
            though an integer grid cuts off the positive one; the gradient is straight-through everywhere (Risso et al.,
            IGSC 2022, as in PLiNIO).
    """

    by_group = ("scale",)

    def __init__(self, layout, candidates, scale_dtype=torch.float16, two_bits="half-step", scale="scan"):
        super().__init__(layout, candidates, scale_dtype, two_bits)
        if scale not in ("scan", "max", "range"):
            raise ValueError(f"scale must be 'scan', 'max' or 'range', got {scale!r}")
        self.start, self.narrow = scale, scale != "range"
        self.register_buffer("scale", torch.ones(layout.count, len(self.precisions)))

    def grid(self, bits: int) -> Grid:
        grid = super().grid(bits)
        return replace(grid, clip_low=-inf, clip_high=inf) if self.start == "range" else grid

    def steps(self, weight: Tensor) -> tuple[Tensor, None]:
        return to_stored_type(self.scale.to(weight.dtype), self.scale_dtype), None

    @torch.no_grad()
    def calibrate(self, weight: Tensor, live: Tensor | None = None) -> None:
        for k, bits in enumerate(self.precisions):
            self.scale[:, k] = self._start(weight.float(), bits, live)

    def _start(self, weight: Tensor, bits: int, live: Tensor | None) -> Tensor:
        """Step of each sub-group, `(groups,)`."""
        if self.start == "scan":
            return scan_scale(self.layout, weight, self.grid(bits), self.scale_dtype, live)
        between = Grid.signed(bits, half_step=True, narrow=False)  # its ends are half a level beyond the last codes
        grid = between if self.start == "range" else self.grid(bits)
        return widest_scale(self.layout, weight, grid, self.scale_dtype, live)

    @torch.no_grad()
    def restore(self, bits: int, groups: Tensor, floats: Tensor) -> None:
        self.scale[groups, self.precisions.index(bits)] = floats[:, 0].to(self.scale.dtype)
