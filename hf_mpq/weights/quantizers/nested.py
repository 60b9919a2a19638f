"""One set of codes for several precisions: the lower ones are the top bit planes of the highest."""

import torch
from torch import Tensor, nn

from ...core import constant, replace_forward, scale_gradient, to_stored_type
from ..encodings import Nested
from ..roles import STEPS
from .base import QUANTIZERS, WeightQuantizer
from .shared_range import scan_shared_range


@QUANTIZERS.register("nested")
class NestedQuantizer(WeightQuantizer):
    """Cascade of bit drops from the highest candidate, with a learned scale per sub-group and precision.

    Reconstructed after "vertical layering" (Wu et al., TPAMI 2023), whose equations are not public:
    `u_top = clip(round(w / s) + 2^(top-1))`, `u_b = floor(u_(b+1) / 2)`, value `s_b (u_b - z_b)`; gradients
    straight-through to the weight inside the top range, and `u_b - z_b` to the scale. The paper does not say where
    scales start: see `scan_shared_range`.
    """

    encoding = "nested"
    roles = {"scale": STEPS}  # noqa: RUF012
    by_precision = frozenset({"scale"})

    def __init__(self, layout, candidates, scale_dtype=torch.float16):
        super().__init__(layout, candidates, scale_dtype)
        self.top = self.precisions[-1]
        self.scale = nn.Parameter(torch.ones(layout.count, len(self.precisions)))

    def _scales(self, weight: Tensor) -> Tensor:
        size = constant(self.layout.numel, weight.dtype, weight.device).unsqueeze(1)
        factor = (size * 2 ** (self.top - 1)).rsqrt()
        return to_stored_type(scale_gradient(self.scale, factor).abs().to(weight.dtype), self.scale_dtype)

    def _codes(self, weight: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of the highest precision and where they are not clipped, both `(lines, length)`."""
        step = self.layout.expand(scales[:, -1:]).detach()
        step = torch.where(step == 0, torch.ones_like(step), step)
        raw = torch.round(self.layout.lines(weight.detach()) / step) + 2 ** (self.top - 1)
        codes = raw.clamp(0, 2**self.top - 1)
        return codes, raw == codes

    def candidate(self, weight: Tensor, bits: int) -> Tensor:
        scales = self._scales(weight)
        top, inside = self._codes(weight, scales)
        level = torch.floor(top / 2 ** (self.top - bits)) - Nested.zero(bits, self.top)
        k = self.precisions.index(bits)
        value = level * self.layout.expand(scales[:, k : k + 1])
        lines = self.layout.lines(weight)
        return self.layout.lines(_add_gradient(value, torch.where(inside, lines, lines.detach())))

    def encode(self, weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        if bits != self.top:
            raise ValueError(f"nested codes are stored at the highest precision, {self.top} bits, not at {bits}")
        scales = self._scales(weight)
        return self._codes(weight, scales)[0].to(torch.uint8), scales

    @torch.no_grad()
    def calibrate(self, weight: Tensor, live: Tensor | None = None) -> None:
        self.scale.copy_(scan_shared_range(self.layout, weight.float(), self.precisions, self.scale_dtype, live))

    @torch.no_grad()
    def restore(self, bits: int, groups: Tensor, floats: Tensor) -> None:
        self.scale[groups] = floats.to(self.scale.dtype)


def _add_gradient(value: Tensor, source: Tensor) -> Tensor:
    """`value` with its own gradient, and the upstream gradient to `source` as well."""
    return value + replace_forward(source, torch.zeros_like(source))
