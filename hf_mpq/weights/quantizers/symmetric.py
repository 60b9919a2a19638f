"""Symmetric uniform quantization with one constant scale."""

import torch
from torch import Tensor

from ...core import to_stored_type
from .base import QUANTIZERS
from .scan import scan_scale, widest_scale
from .signed import SignedGridQuantizer


@QUANTIZERS.register("symmetric")
class SymmetricQuantizer(SignedGridQuantizer):
    """One scale per sub-group and precision, set when calibrated and constant from then on.

    Straight-through inside the range, no gradient outside. At 1 bit the scan finds `mean |w|` (the optimum of BWN).

    Args:
        scale: `"scan"` for least squared error, or `"max"` so that the largest |w| is the last level (ZeroQuant).
    """

    def __init__(self, layout, candidates, scale_dtype=torch.float16, two_bits="half-step", scale="scan"):
        super().__init__(layout, candidates, scale_dtype, two_bits)
        if scale not in ("scan", "max"):
            raise ValueError(f"scale must be 'scan' or 'max', got {scale!r}")
        self.start = scale
        self.register_buffer("scale", torch.ones(layout.count, len(self.precisions)))

    def steps(self, weight: Tensor) -> tuple[Tensor, None]:
        return to_stored_type(self.scale.to(weight.dtype), self.scale_dtype), None

    @torch.no_grad()
    def calibrate(self, weight: Tensor, live: Tensor | None = None) -> None:
        start = scan_scale if self.start == "scan" else widest_scale
        for k, bits in enumerate(self.precisions):
            self.scale[:, k] = start(self.layout, weight.float(), self.grid(bits), self.scale_dtype, live)

    @torch.no_grad()
    def restore(self, bits: int, groups: Tensor, floats: Tensor) -> None:
        self.scale[groups, self.precisions.index(bits)] = floats[:, 0].to(self.scale.dtype)
