"""What the quantizers around zero share: their grids and their encoding."""

from typing import Literal

import torch

from ...core import SubgroupLayout
from .grid import Grid, GridQuantizer

TwoBits = Literal["half-step", "ternary", "integer"]


class SignedGridQuantizer(GridQuantizer):
    """Levels around zero at 1 (sign) to 8 bits.

    Args:
        two_bits: grid at 2 bits: `"half-step"` (±1/2, ±3/2), `"ternary"` (−1, 0, 1) or `"integer"` (−2, −1, 0, 1).
    """

    keeps_scales = True
    narrow = True

    def __init__(
        self,
        layout: SubgroupLayout,
        candidates: tuple[int, ...],
        scale_dtype: torch.dtype = torch.float16,
        two_bits: TwoBits = "half-step",
    ):
        super().__init__(layout, candidates, scale_dtype)
        if two_bits not in ("half-step", "ternary", "integer"):
            raise ValueError(f"two_bits must be 'half-step', 'ternary' or 'integer', got {two_bits!r}")
        self.two_bits = two_bits
        self.encoding = "scaled-half" if two_bits == "half-step" else "scaled"

    def grid(self, bits: int) -> Grid:
        half_step = bits == 1 or (bits == 2 and self.two_bits == "half-step")
        narrow = self.two_bits == "ternary" if bits == 2 else self.narrow
        return Grid.signed(bits, half_step, narrow)

    def holds_codes(self, bits: int) -> bool:
        return self.grid(bits).half == 0
