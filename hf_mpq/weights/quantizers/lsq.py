"""LSQ: the step is learned (Esser et al., ICLR 2020)."""

from functools import lru_cache

import torch
from torch import Tensor, nn

from ...core import SubgroupLayout, Written, constant, replace_forward, scale_gradient, to_stored_type
from ..roles import STEPS
from ..rounding_gradients import rounding_gradient
from .base import QUANTIZERS
from .scan import scan_scale
from .signed import SignedGridQuantizer

SMALLEST_STEP = 2.0**-20


@QUANTIZERS.register("lsq")
class LearnedStepQuantizer(SignedGridQuantizer):
    """A learned step per sub-group and precision.

    The step's gradient is equation 3 of the paper times `1 / sqrt(n * high)` (section 2.2) with n the weights of the
    sub-group. The start is an MSE scan rather than the paper's `2 mean|w| / sqrt(high)`; `start="paper"` gives that.

    Args:
        start: `"scan"` or `"paper"`.
        gradient: rule for the gradient of rounding, a part such as `"ewgs"`; None is straight-through.
    """

    narrow = False
    roles = {"step": STEPS}  # noqa: RUF012
    by_precision = frozenset({"step"})
    by_group = ("step",)

    def __init__(
        self,
        layout,
        candidates,
        scale_dtype=torch.float16,
        two_bits="half-step",
        start="scan",
        gradient: Written | None = None,
    ):
        super().__init__(layout, candidates, scale_dtype, two_bits)
        if start not in ("scan", "paper"):
            raise ValueError(f"start must be 'scan' or 'paper', got {start!r}")
        self.start, self.gradient = start, rounding_gradient(gradient)
        self.step = nn.Parameter(torch.ones(layout.count, len(self.precisions)))

    def steps(self, weight: Tensor) -> tuple[Tensor, None]:
        step = scale_gradient(self.step, self._gradient_scale(self.step))
        positive = replace_forward(step, step.clamp(min=SMALLEST_STEP))  # a step at zero can grow again
        return to_stored_type(positive.to(weight.dtype), self.scale_dtype), None

    def _gradient_scale(self, like: Tensor) -> Tensor:
        """`(groups, precisions)`"""
        highest = tuple(max(self.grid(bits).high, 1) for bits in self.precisions)
        if torch.compiler.is_compiling():
            return _gradient_scale(self.layout, highest, like.dtype, like.device)
        return _made_gradient_scale(self.layout, highest, like.dtype, like.device)

    @torch.no_grad()
    def calibrate(self, weight: Tensor, live: Tensor | None = None) -> None:
        for k, bits in enumerate(self.precisions):
            self.step[:, k] = self._start(weight.float(), bits, live)

    def _start(self, weight: Tensor, bits: int, live: Tensor | None) -> Tensor:
        if self.start == "scan":
            return scan_scale(self.layout, weight, self.grid(bits), self.scale_dtype, live)
        counted = torch.ones_like(weight) if live is None else live.expand_as(weight).to(weight.dtype)
        mean = self.layout.reduce(weight.abs() * counted, "sum") / self.layout.reduce(counted, "sum").clamp(min=1)
        return 2 * mean / max(self.grid(bits).high, 1) ** 0.5

    @torch.no_grad()
    def restore(self, bits: int, groups: Tensor, floats: Tensor) -> None:
        self.step[groups, self.precisions.index(bits)] = floats[:, 0].to(self.step.dtype)


def _gradient_scale(
    layout: SubgroupLayout, highest: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    size = constant(layout.numel, dtype, device).unsqueeze(1)
    return (size * constant(highest, dtype, device)).rsqrt()


@lru_cache(maxsize=4096)
def _made_gradient_scale(*what) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return _gradient_scale(*what)
