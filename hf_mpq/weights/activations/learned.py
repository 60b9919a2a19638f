"""LSQ+: step and offset are learned (Bhalgat et al., 2020)."""

import torch
from torch import Tensor, nn

from ...core import replace_forward, scale_gradient
from ..roles import OFFSETS, STEPS
from .base import ACTIVATIONS, ActivationGrid, ActivationQuantizer
from .fixed import FixedGridQuantizer

SMALLEST_STEP = 1e-6


@ACTIVATIONS.register("learned")
class LearnedOffsetQuantizer(ActivationQuantizer):
    """One learned step and offset per tensor, unsigned levels.

    `x_hat = step (clamp(round(x / step) + z, 0, 2^b - 1) - z)` with `z = round(-offset / step)`, an integer within the
    levels, so that zero is exact. Inside, the gradient to the input is 1 and to the step LSQ's; outside, where
    `x_hat` is `offset` or `offset + (2^b - 1) step`, the offset gets 1 and the step 0 or `2^b - 1`. Step and offset
    gradients are scaled by `1 / sqrt(n * (2^b - 1))`, n the features of one example.
    """

    name = "learned"
    stored_bytes = 8
    straight_through = False
    roles = {"step": STEPS, "offset": OFFSETS}  # noqa: RUF012

    def __init__(self, bits: int = 8):
        super().__init__(bits, symmetric=False)
        self.step = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(()))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    def unit(self, name: str) -> Tensor:
        """The range, from the lowest level to the highest."""
        return self.step.detach() * (2**self.bits - 1)

    @property
    def options(self) -> dict:
        return {}

    def frozen(self) -> ActivationQuantizer:
        if not self.ready:
            raise ValueError("a learned activation range was never calibrated: run `hf_mpq.nn.calibrate_activations`")
        return FixedGridQuantizer.of(self, self.grid(self.step.new_zeros(1)))

    def grid(self, x: Tensor) -> ActivationGrid:
        start = self.grid_of_range(x.detach().amin(), x.detach().amax())
        step = torch.where(self.ready, self.step, start.step).clamp(min=SMALLEST_STEP)
        zero = torch.round(torch.where(self.ready, -self.offset / step, start.zero)).clamp(0, start.high)
        return ActivationGrid(step.detach(), zero.detach(), start.low, start.high)

    def fake_quantized(self, x: Tensor) -> Tensor:
        grid, value = self.grid(x), x.float()
        factor = (x[0].numel() * grid.high) ** -0.5
        step, offset = scale_gradient(self.step, factor), scale_gradient(self.offset, factor)
        low, high = -grid.zero, grid.high - grid.zero
        ratio = value / grid.step
        inside = (ratio >= low) & (ratio <= high)
        level = torch.round(ratio).clamp(low, high)
        slope = torch.where(inside, level - ratio, level + grid.zero).detach()
        surrogate = torch.where(inside, value, offset) + slope * step
        return replace_forward(surrogate, level.detach() * grid.step).to(x.dtype)

    @torch.no_grad()
    def set_bits(self, bits: int) -> None:
        self.step.mul_((2**self.bits - 1) / (2**bits - 1))
        super().set_bits(bits)

    @torch.no_grad()
    def reset(self) -> None:
        self.step.fill_(1)
        self.offset.zero_()
        self.ready.fill_(False)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        low, high = x.amin().float(), x.amax().float()
        if self.ready:
            low = torch.minimum(low, self.offset)
            high = torch.maximum(high, self.offset + (2**self.bits - 1) * self.step)
        grid = self.grid_of_range(low, high)
        self.step.copy_(grid.step.clamp(min=SMALLEST_STEP))
        self.offset.copy_(-grid.zero * self.step)
        self.ready.fill_(True)
