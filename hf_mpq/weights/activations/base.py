"""The contract of every activation quantizer, the same as of weights: forward, encode, decode, calibrate, update."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ...core import ActivationSpec, Registry, replace_forward
from ..gates import Gate
from ..ranges import RangedPart

ACTIVATIONS: Registry[type["ActivationQuantizer"]] = Registry("activation quantizer", passed=("bits",))


class ActivationGrid(NamedTuple):
    """Step and integer zero point, broadcastable to the activation, and the smallest and largest level.

    Attributes:
        levels: those that there are, ascending `(levels,)`, among them the zero point; None where all from the smallest
            to the largest are.
    """

    step: Tensor
    zero: Tensor
    low: int
    high: int
    levels: Tensor | None = None

    def nearest(self, steps: Tensor) -> Tensor:
        """The level of numbers that are so many steps from zero; between two uneven ones the lower."""
        if self.levels is None:
            return (torch.round(steps) + self.zero).clamp(self.low, self.high)
        return self.levels[torch.bucketize(steps + self.zero, (self.levels[1:] + self.levels[:-1]) / 2)]


class ActivationQuantizer(RangedPart, ABC):
    """Quantizes an activation of any shape; the last axis is features.

    Attributes:
        name: the registered name.
        stored_bytes: what its frozen form stores.
        packed_form: whether it is what others are packed as; no config names it.
        straight_through: whether forward rounds to `grid`, and its gradient is straight-through everywhere.
        rounding: off in float stages, where activations are used as they are; not saved.

    Args:
        bits: 2 to 8.
        symmetric: levels `-(2^(b-1) - 1)` to `2^(b-1) - 1` around zero, instead of `0` to `2^b - 1` with an integer
            zero point (which suits what comes out of a GELU better).
    """

    name: str
    stored_bytes = 0
    packed_form: ClassVar[bool] = False
    straight_through: ClassVar[bool] = True
    rounding = True

    def __init__(self, bits: int = 8, symmetric: bool = False):
        super().__init__()
        if not 2 <= bits <= 8:
            raise ValueError(f"activations take 2 to 8 bits, got {bits}")
        self.bits = bits
        self.symmetric = symmetric

    @property
    def spec(self) -> ActivationSpec:
        """What `from_spec` needs to build an equal quantizer, apart from its state."""
        return ActivationSpec(self.name, self.bits, self.options)

    @property
    def options(self) -> dict:
        """Options that differ from the defaults."""
        return {"symmetric": True} if self.symmetric else {}

    @classmethod
    def from_spec(cls, spec: ActivationSpec) -> "ActivationQuantizer":
        """The registered quantizer that a spec names."""
        return ACTIVATIONS.make(spec.quantizer, bits=spec.bits, options=spec.options)

    @abstractmethod
    def grid(self, x: Tensor) -> ActivationGrid:
        """The grid for `x`, in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid, straight-through, in the type of `x`; as it is where `rounding` is off."""
        return self.fake_quantized(x) if self.rounding else x

    def fake_quantized(self, x: Tensor) -> Tensor:
        """`x` on the grid, straight-through, in the type of `x`."""
        return replace_forward(x, self.rounded(x.detach()))

    def on_levels(self, x: Tensor, step: Tensor, highest: Tensor) -> Tensor:
        """`x` on the whole numbers of steps from minus `highest` to `highest`, under the learned range, in the type of
        `x`; step and highest level `(1,)`. Only a quantizer that learns its `largest` value can."""
        raise NotImplementedError(f"{type(self).__name__} learns no largest value: give its gate another quantizer")

    @torch.no_grad()
    def rounded(self, x: Tensor) -> Tensor:
        """What `decode(*encode(x))` gives, in the type of `x`, in fewer passes over memory."""
        grid = self.grid(x)
        if grid.levels is not None:
            return self.decode(grid.nearest(x.float() / nonzero(grid.step)), grid).to(x.dtype)
        value = torch.div(x.float(), nonzero(grid.step)).round_()
        torch.maximum(value, grid.low - grid.zero, out=value)  # faster than clamp_ with tensors
        torch.minimum(value, grid.high - grid.zero, out=value)
        return value.mul_(grid.step).to(x.dtype)

    def encode(self, x: Tensor) -> tuple[Tensor, ActivationGrid]:
        """Integer levels (as floats) and their grid."""
        grid = self.grid(x)
        return grid.nearest(x.float() / nonzero(grid.step)), grid

    def decode(self, codes: Tensor, grid: ActivationGrid) -> Tensor:
        """Float32 values of levels."""
        return (codes - grid.zero) * grid.step

    @property
    def open_gate(self) -> Gate | None:
        """What yields its bits while they are open."""
        return None

    def decided(self, bits: int) -> "ActivationQuantizer":
        """The quantizer that has `bits` (2 to 8) from now on: this one, unless its bits were open."""
        if bits != self.bits:
            self.set_bits(bits)
        return self

    def follow(self, program: nn.Module) -> None:
        """Take the bits of this `WeightProgram`, where they are to go with those of the weights."""

    def set_bits(self, bits: int) -> None:
        """Quantize to `bits` (2 to 8) from now on, over the same range."""
        self.bits = bits

    def reset(self) -> None:
        """Forget everything learned or observed."""

    def calibrate(self, x: Tensor) -> None:
        """Widen remembered ranges to an example; the first one after `reset` sets them."""

    def update(self) -> None:
        """Called once per optimizer step, outside autograd; takes in what forward passes observed since."""

    def frozen(self) -> "ActivationQuantizer":
        """The same function with nothing left to learn or observe; what is packed. Raises ValueError when not ready."""
        return self

    def grid_of_range(self, low: Tensor, high: Tensor) -> ActivationGrid:
        """Grid that covers `low` to `high` and zero."""
        if self.symmetric:
            levels = 2 ** (self.bits - 1) - 1
            step = torch.maximum(low.abs(), high.abs()).float() / levels
            return ActivationGrid(step, torch.zeros_like(step), -levels, levels)
        levels = 2**self.bits - 1
        low, high = low.float().clamp(max=0), high.float().clamp(min=0)
        step = (high - low) / levels
        return ActivationGrid(step, torch.round(-low / nonzero(step)), 0, levels)


def nonzero(step: Tensor) -> Tensor:
    return torch.where(step == 0, torch.ones_like(step), step)
