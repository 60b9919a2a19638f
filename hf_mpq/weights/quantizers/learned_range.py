"""A learned range: how far the levels of a sub-group reach, at whatever precision (FDQ, Schaefer et al., 2022)."""

import torch
from torch import Tensor, nn

from ...core import Written, constant, replace_forward, to_stored_type
from ..roles import RANGES
from ..rounding_gradients import rounding_gradient
from .base import QUANTIZERS
from .scan import scan_scale
from .signed import SignedGridQuantizer

SMALLEST_RANGE = 2.0**-20


@QUANTIZERS.register("learned-range")
class LearnedRangeQuantizer(SignedGridQuantizer):
    """`Q(w) = d round(clip(w, -x_max, x_max) / d)` with one learned range `x_max` per sub-group (Schaefer et al.,
    "Edge Inference with Fully Differentiable Quantized Mixed Precision Neural Networks", 2022).

    Under the gate `"learned-range"` the step `d` is learned too, and with it the precision. At a precision of b bits
    it is `x_max / (2^(b-1) - 1)`, so that every level is used, -1, 0 and 1 at 2 bits; 1 bit is the sign times `x_max`.

    Gradients are the paper's: inside the range straight-through to the weight and `round(w / d) - w / d` to `d`;
    outside `sign(w)` to `x_max`, and nothing to weight and `d`.

    Args:
        start: `"paper"` for the larger of `|mean - 3 std|` and `|mean + 3 std|`, whatever the precision, or `"scan"`
            for the range of least squared error at the candidate in the middle.
        gradient: rule for the gradient of rounding, a part such as `"ewgs"`, the paper's for weights; None is
            straight-through. The gradients of `d` and `x_max` are those above under every rule.

    Attributes:
        range: `x_max`, `(groups,)`.
    """

    roles = {"range": RANGES}  # noqa: RUF012
    by_group = ("range",)

    def __init__(
        self, layout, candidates, scale_dtype=torch.float16, start: str = "paper", gradient: Written | None = None
    ):
        super().__init__(layout, candidates, scale_dtype, "ternary")
        if start not in ("paper", "scan"):
            raise ValueError(f"start must be 'paper' or 'scan', got {start!r}")
        self.start, self.gradient = start, rounding_gradient(gradient)
        self.range = nn.Parameter(torch.ones(layout.count))

    def largest(self) -> Tensor:
        return replace_forward(self.range, self.range.clamp(min=SMALLEST_RANGE))

    def steps(self, weight: Tensor) -> tuple[Tensor, None]:
        reach = constant(tuple(map(self._reach, self.precisions)), weight.dtype, weight.device)
        return to_stored_type(self.largest().to(weight.dtype).unsqueeze(1) / reach, self.scale_dtype), None

    @torch.no_grad()
    def calibrate(self, weight: Tensor, live: Tensor | None = None) -> None:
        if self.precisions:
            self.range.copy_(self._start(weight.float(), live))

    def _start(self, weight: Tensor, live: Tensor | None) -> Tensor:
        """Range of each sub-group, `(groups,)`."""
        if self.start == "scan":
            bits = self.precisions[len(self.precisions) // 2]
            return self._reach(bits) * scan_scale(self.layout, weight, self.grid(bits), self.scale_dtype, live)
        counted = torch.ones_like(weight) if live is None else live.expand_as(weight).to(weight.dtype)
        total = lambda values: self.layout.reduce(values * counted, "sum")  # noqa: E731
        count = total(counted).clamp(min=1)
        mean = total(weight) / count
        deviation = total((weight - self._broadcast(mean)).square()) / count
        return mean.abs() + 3 * deviation.sqrt()

    @torch.no_grad()
    def restore(self, bits: int, groups: Tensor, floats: Tensor) -> None:
        self.range[groups] = self._reach(bits) * floats[:, 0].to(self.range.dtype)

    def _reach(self, bits: int) -> float:
        """Steps from zero to the last level."""
        grid = self.grid(bits)
        return grid.high + grid.half
