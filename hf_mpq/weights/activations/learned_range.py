"""A learned range of an activation, at whatever precision (FDQ, Schaefer et al., 2022)."""

from math import ceil

import torch
from torch import Tensor, nn

from ...core import Written, constant, plain, replace_forward
from ..compilation import compiled_when_large
from ..roles import RANGES
from ..rounding_gradients import RoundingGradient, rounding_gradient
from .base import ACTIVATIONS, ActivationGrid, ActivationQuantizer
from .fixed import FixedGridQuantizer

SMALLEST_RANGE, PERCENTILE = 1e-6, 99.9


@ACTIVATIONS.register("learned-range")
class LearnedRangeActivation(ActivationQuantizer):
    """`Q(x) = d round(clip(x, -x_max, x_max) / d)` with one learned range `x_max` per tensor (Schaefer et al., 2022).

    Levels are signed, for what leaves a GELU is negative too. Where the bits are decided the step `d` is
    `x_max / (2^(b-1) - 1)`; under the gate `"learned-range"` it is learned as well. Gradients are those of the weight
    quantizer of this name. It starts from a percentile of `|x|`, the largest over the examples.

    Args:
        bits: 2 to 8.
        percentile: that it starts from, the paper's by default; 100 is the largest value.
        gradient: rule for the gradient of rounding, a part such as `"inverse-tanh"`, the paper's for activations; None
            is straight-through.

    Attributes:
        range: `x_max`, a scalar.
    """

    name = "learned-range"
    stored_bytes = 8
    straight_through = False
    roles = {"range": RANGES}  # noqa: RUF012

    def __init__(self, bits: int = 8, percentile: float = PERCENTILE, gradient: Written | None = None):
        super().__init__(bits, symmetric=True)
        if not 0 < percentile <= 100:
            raise ValueError(f"a percentile is above 0 and at most 100, got {percentile}")
        self.percentile = percentile
        self.gradient, self._written = rounding_gradient(gradient), plain(gradient)
        self.range = nn.Parameter(torch.ones(()))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    @property
    def options(self) -> dict:
        found = {} if self.percentile == PERCENTILE else {"percentile": self.percentile}
        return found if self._written is None else {**found, "gradient": self._written}

    def largest(self) -> Tensor:
        return replace_forward(self.range, self.range.clamp(min=SMALLEST_RANGE)).reshape(1)

    def grid(self, x: Tensor) -> ActivationGrid:
        levels = 2 ** (self.bits - 1) - 1
        step = self._range_of(x).detach() / levels
        return ActivationGrid(step, torch.zeros_like(step), -levels, levels)

    def fake_quantized(self, x: Tensor) -> Tensor:
        levels = 2 ** (self.bits - 1) - 1
        return self.on_levels(x, self.largest() / levels, constant((levels,), torch.float32, x.device))

    def on_levels(self, x: Tensor, step: Tensor, highest: Tensor) -> Tensor:
        largest = self._range_of(x)
        step = torch.where(self.ready, step.reshape(()), largest.detach() / highest.reshape(()))
        return RangedRounding.apply(x, step, largest, highest.reshape(()), self.gradient)

    def _range_of(self, x: Tensor) -> Tensor:
        """The range; until it is calibrated that of the current tensor."""
        now = x.detach().abs().amax().float().clamp(min=SMALLEST_RANGE)
        return torch.where(self.ready, self.largest().reshape(()), now)

    def frozen(self) -> ActivationQuantizer:
        if not self.ready:
            raise ValueError("a learned activation range was never calibrated: run `hf_mpq.nn.calibrate_activations`")
        return FixedGridQuantizer.of(self, self.grid(self.range.new_zeros(1)))

    @torch.no_grad()
    def reset(self) -> None:
        self.range.fill_(1)
        self.ready.fill_(False)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        sizes = x.abs().float().flatten()
        found = sizes.kthvalue(ceil(self.percentile / 100 * len(sizes))).values.clamp(min=SMALLEST_RANGE)
        self.range.copy_(torch.where(self.ready, torch.maximum(self.range, found), found))
        self.ready.fill_(True)


class RangedRounding(torch.autograd.Function):
    """`RangedRounding.apply(x, step, largest, highest, rounding)`, all but `x` and the rule scalars: `x` on the levels
    up to the highest, in the type of `x`.

    Inside the range straight-through to `x`, or by the rule, and `round(r) - r` to the step, `r = x / step`; outside
    `sign(x)` to the range. Nothing but the inputs is kept for backward.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, step: Tensor, largest: Tensor, highest: Tensor, rounding: RoundingGradient | None
    ) -> Tensor:
        ctx.rounding = rounding
        ctx.save_for_backward(x, step, largest, highest)
        return _rounded(x.detach(), step.detach(), highest)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, step, largest, highest = (tensor.detach() for tensor in ctx.saved_tensors)
        return *_gradients(x, gradient.detach(), step, largest, highest, ctx.rounding), None, None


@compiled_when_large
def _rounded(x: Tensor, step: Tensor, highest: Tensor) -> Tensor:
    level = torch.round(x.float() / step)
    return (torch.minimum(torch.maximum(level, -highest), highest) * step).to(x.dtype)


@compiled_when_large
def _gradients(
    x: Tensor, gradient: Tensor, step: Tensor, largest: Tensor, highest: Tensor, rounding: RoundingGradient | None
) -> tuple[Tensor, Tensor, Tensor]:
    value, upstream = x.float(), gradient.float()
    ratio = value / step
    level = torch.minimum(torch.maximum(torch.round(ratio), -highest), highest)
    inside = value.abs() <= largest
    passed = upstream if rounding is None else rounding(upstream, ratio - level)
    to_step = (upstream * torch.where(inside, level - ratio, 0.0)).sum()
    to_largest = (upstream * torch.where(inside, 0.0, value.sign())).sum()
    return torch.where(inside, passed, 0.0).to(gradient.dtype), to_step, to_largest
