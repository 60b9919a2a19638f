"""Weights that are sums of learned bit planes: what a gate can select is how many of them there are."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from ...core import SubgroupLayout, constant, replace_forward, to_stored_type
from ..choice import Choice, PlaneWindow
from ..roles import PLANES
from .base import SOURCES, Source

START = 1.0
"""Distance of every start logit from zero."""


def planes_of(candidates: tuple[int, ...]) -> int:
    """Bit planes beside the sign at the highest candidate."""
    return max(candidates[-1] - 1, 1)


class PlaneSource(Source):
    """Sign and magnitude: `w = sign * scale * sum_b 2^b v_b` with `planes` values `v_b`, 0 to 1, that are learned, a
    sign that stays as it starts, and one `scale` per sub-group, constant and exact in its stored type.

    The highest candidate has so many planes and the sign: 7 planes at 8 bits. Where no plane is selected, as for other
    gates and in float stages, all of them are summed, with what was rounded away at the start, so that the start gives
    the float weight back.

    **Memory.** In training, each plane of each weight takes 16 bytes (value, gradient and two of Adam), a weight at 8
    bits 112, and 5 for its sign and remainder: 1.2 GB for the encoder of a MiniLM with six layers (10.6 million
    weights), 9.9 GB for that of BERT-base (85 million); what a forward pass keeps for its gradients is about half as
    much again. Fewer candidates need fewer planes.

    Attributes:
        planes: lowest first, `(planes, out, in)`.
        negative, remainder: `(out, in)` bool and float32.
        scale: value of the lowest plane in each sub-group, `(groups,)`.
    """

    owns_weight = True
    has_planes = True
    roles = {"planes": PLANES}  # noqa: RUF012

    def __init__(self, layout: SubgroupLayout, candidates: tuple[int, ...], scale_dtype: torch.dtype = torch.float16):
        super().__init__(layout, candidates, scale_dtype)
        self.count = planes_of(candidates)
        self.planes = nn.Parameter(torch.zeros(self.count, *layout.shape))
        self.register_buffer("negative", torch.zeros(layout.shape, dtype=torch.bool))
        self.register_buffer("remainder", torch.zeros(layout.shape))
        self.register_buffer("scale", torch.ones(layout.count))

    @torch.no_grad()
    def initialise(self, weight: Tensor) -> None:
        """The largest |w| of each sub-group has all planes."""
        largest = self.layout.reduce(weight.abs(), "amax")
        self.scale.copy_(to_stored_type(largest / (2**self.count - 1), self.scale_dtype))
        scale = self._broadcast(self.scale)
        codes = torch.round(weight.abs() / torch.where(scale == 0, 1.0, scale)).clamp(max=2**self.count - 1)
        codes = torch.where(scale == 0, 0.0, codes)
        self.negative.copy_(weight < 0)
        self.set_codes(codes)
        self.remainder.copy_(weight - self._signed(codes))

    @torch.no_grad()
    def set_codes(self, codes: Tensor) -> None:
        """Make every plane sure of its bit of the magnitudes' codes `(out, in)`."""
        bits = codes.long() >> torch.arange(self.count, device=codes.device).view(-1, 1, 1) & 1
        self.planes.copy_(self._of_bits(bits.to(self.planes.dtype)))

    def forward(self, weight: Tensor, choice: Choice | None = None) -> Tensor:
        if choice is None or choice.planes is None:
            return self._signed(self._sum(self.values(), None)) + self.remainder
        return self._signed(self.magnitudes(choice.planes, choice.window))

    @abstractmethod
    def values(self) -> Tensor:
        """`v_b` of every plane, differentiable: `(planes, out, in)`."""

    @abstractmethod
    def magnitudes(self, selected: Tensor, window: PlaneWindow | None) -> Tensor:
        """|w| over the scale, differentiable, `(out, in)`.

        Args:
            selected: share of each plane in each sub-group, `(groups, planes)`.
            window: where codes are whole numbers, what they must fit into.
        """

    @abstractmethod
    def _of_bits(self, bits: Tensor) -> Tensor:
        """What a plane that is sure of its bits holds."""

    def _sum(self, values: Tensor, selected: Tensor | None) -> Tensor:
        """`sum_b 2^b v_b`, each plane times its share in the sub-group, `(out, in)`."""
        powers = constant(tuple(2.0**b for b in range(self.count)), values.dtype, values.device)
        if selected is None:
            return (powers.view(-1, 1, 1) * values).sum(0)
        shares = self.layout.expand(selected.to(values.dtype) * powers).T  # (planes, lines)
        return ((shares.unsqueeze(2) if self.layout.axis == 0 else shares.unsqueeze(1)) * values).sum(0)

    def _within(self, codes: Tensor, window: PlaneWindow) -> Tensor:
        """The nearest codes that fit, without gradient: multiples of the lowest plane, as far as all planes reach."""
        step = self._broadcast(2.0**window.lowest).to(codes.dtype)
        highest = self._broadcast(2.0**window.count - 1).to(codes.dtype)
        return torch.maximum(torch.minimum(torch.round(codes.detach() / step), highest), -highest) * step

    def _signed(self, magnitudes: Tensor) -> Tensor:
        value = self._broadcast(self.scale) * magnitudes
        return torch.where(self.negative, -value, value)

    def _broadcast(self, values: Tensor) -> Tensor:
        """`(groups,)` to something that broadcasts with `(out, in)`."""
        lines = self.layout.expand(values)
        return lines.unsqueeze(1) if self.layout.axis == 0 else lines.unsqueeze(0)


@SOURCES.register("planes")
class SigmoidPlanes(PlaneSource):
    """The bit values of CSQ (Xiao et al., DAC 2023): `sigmoid(beta P_b)`, which becomes a bit as beta grows, without
    any approximation of gradients. `beta` is one over the temperature.

    Corrected here: one sign per weight, for a difference of two sets of planes needs a bit more than it is said to
    have. And values are `(1 + tanh(beta P / 2) / tanh(beta c / 2)) / 2` with the start `+-c`, so that a plane that has
    not learned is 0 or 1 at every beta; the plain sigmoid starts far from the weight, and drifts as beta grows.
    """

    def __init__(self, layout: SubgroupLayout, candidates: tuple[int, ...], scale_dtype: torch.dtype = torch.float16):
        super().__init__(layout, candidates, scale_dtype)
        self.register_buffer("temperature", torch.tensor(1.0))

    @torch.no_grad()
    def initialise(self, weight: Tensor) -> None:
        self.set_temperature(1.0)
        super().initialise(weight)

    @torch.no_grad()
    def set_temperature(self, temperature: float) -> None:
        self.temperature.fill_(temperature)

    def unit(self, name: str) -> Tensor:
        return torch.full_like(self.temperature, START)

    def values(self) -> Tensor:
        sharpness = 0.5 / self.temperature
        return 0.5 + 0.5 * torch.tanh(sharpness * self.planes) / torch.tanh(sharpness * START)

    def magnitudes(self, selected: Tensor, window: PlaneWindow | None) -> Tensor:
        soft = self._sum(self.values(), selected)
        if window is None:
            return soft
        sure = self._sum((self.planes.detach() > 0).to(soft.dtype), selected.detach())
        return replace_forward(soft, self._within(sure, window))

    def _of_bits(self, bits: Tensor) -> Tensor:
        return START * (2 * bits - 1)
