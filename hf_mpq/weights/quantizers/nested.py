"""One set of codes for several precisions: the lower ones are the top bit planes of the highest."""

import torch
from torch import Tensor, nn

from ...core import constant, scale_gradient, to_stored_type
from ..cascade import Cascade, CascadeGrid, top_codes
from ..choice import Choice
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

    def forward(self, weight: Tensor, choice: Choice) -> Tensor:
        if choice.passes:
            return weight
        return self.layout.lines(
            Cascade.apply(self.layout.lines(weight), *self.line_parameters(weight, choice), self.top)
        )

    def rows(self, weight: Tensor, choice: Choice, rows: Tensor) -> Tensor:
        if self.layout.axis == 1 or choice.passes:
            return super().rows(weight, choice, rows)
        *parts, grid = self.line_parameters(weight, choice)
        chosen = CascadeGrid(*(row if len(row) == 1 else row[rows] for row in grid))
        return Cascade.apply(weight.index_select(0, rows), *(part[rows] for part in parts), chosen, self.top)

    def candidate(self, weight: Tensor, bits: int) -> Tensor:
        index = torch.full((self.layout.count,), self.candidates.index(bits), device=weight.device)
        return self(weight, Choice(index=index))

    def line_parameters(self, weight: Tensor, choice: Choice) -> tuple[Tensor, Tensor, Tensor, CascadeGrid]:
        """Probability and scale of each line and candidate, the step of the codes, and the grid."""
        scales, expand, pruned = self._scales(weight), self.layout.expand, self.candidates.count(0)
        step = expand(scales[:, -1:]).detach()
        divisor, zero = constant(self._grid(), weight.dtype, weight.device).unsqueeze(1)
        if choice.probabilities is not None:
            return expand(choice.probabilities[:, pruned:]), expand(scales), step, CascadeGrid(divisor, zero)
        position = (choice.index - pruned).clamp(min=0)
        keep = expand((choice.index >= pruned).to(weight.dtype).unsqueeze(1))
        grid = CascadeGrid(*(expand(values[0, position].unsqueeze(1)) for values in (divisor, zero)))
        return keep, expand(scales.gather(1, position.unsqueeze(1))), step, grid

    def _grid(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        divisors = tuple(2.0 ** (self.top - bits) for bits in self.precisions)
        return divisors, tuple(Nested.zero(bits, self.top) for bits in self.precisions)

    def encode(self, weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        if bits != self.top:
            raise ValueError(f"nested codes are stored at the highest precision, {self.top} bits, not at {bits}")
        scales = self._scales(weight)
        return top_codes(self.layout.lines(weight), self.layout.expand(scales[:, -1:]), self.top).to(
            torch.uint8
        ), scales

    @torch.no_grad()
    def calibrate(self, weight: Tensor, live: Tensor | None = None) -> None:
        self.scale.copy_(scan_shared_range(self.layout, weight.float(), self.precisions, self.scale_dtype, live))

    @torch.no_grad()
    def restore(self, bits: int, groups: Tensor, floats: Tensor) -> None:
        self.scale[groups] = floats.to(self.scale.dtype)
