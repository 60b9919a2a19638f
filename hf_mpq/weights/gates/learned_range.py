"""A precision that follows from a learned step and a learned range (FDQ, Schaefer et al., 2022)."""

import math

import torch
from torch import Tensor, nn

from ...core import Usage, constant, replace_forward
from ..choice import Choice
from ..ranges import RangedPart
from ..roles import STEPS, LearnedPart
from .base import GATES, SMALLEST, Gate

SMALLEST_STEP = 2.0**-24
BELOW_ONE_LEVEL = 0.25
"""Of a step is the range of a sub-group that starts at 0 bits."""


@GATES.register("learned-range")
class LearnedRangeGate(Gate):
    """With the learned step `d` and the range `x_max` that the quantizer learns, a sub-group has the levels `-k d` to
    `k d`, `k = round(x_max / d)`, and takes `ceil(log2(k + 1)) + 1` bits, or the next candidate above; rounding and
    ceiling pass gradients straight-through (Schaefer et al., 2022). What it yields is that grid, no candidate.

    Ours: `d` stays between the steps of the lowest and the highest candidate rather than between two constants, and
    where 0 is a candidate a sub-group with `k = 0` is pruned (the paper has at least 1 bit).

    Args:
        start_bits: precision that it starts from: the highest candidate up to it. The paper starts from 4 to 6 bits.

    Attributes:
        step: `d`, `(groups,)`.
    """

    roles = {"step": STEPS}  # noqa: RUF012
    sets_grid = True

    def __init__(self, groups: int, candidates: tuple[int, ...], start_bits: int = 6):
        super().__init__(groups, candidates)
        if candidates[-1] < 2:
            raise ValueError(f"a learned range has at least 2 bits; candidates {candidates} have none so high")
        self.start_bits = start_bits
        self.step = nn.Parameter(torch.ones(groups))
        self._quantizer: tuple[RangedPart, ...] = ()  # in a tuple: not a submodule
        self.initialise(None)

    def role_of(self, name: str) -> str:
        return LearnedPart.role_of(self, name)

    @torch.no_grad()
    def decide_for(self, quantizer: RangedPart) -> None:
        quantizer.largest()
        self._quantizer = (quantizer,)
        self.initialise(None)

    @torch.no_grad()
    def initialise(self, bits: tuple[int, ...] | None) -> None:
        positive = [one for one in self.candidates if one > 0]
        begin = max([one for one in positive if one <= self.start_bits] or positive[:1])
        self.step.copy_(self._largest() / _reach(begin))

    def choose(self) -> Choice:
        return Choice(levels=(self._step(), self._levels().detach()))

    def usage(self) -> Usage:
        """One-hot, with the gradient of the bits: a share of the next candidate below goes to the one that is used."""
        levels = self._levels()
        index, bits = self._index(levels), _bits(levels)
        shares = self._one_hot(index, bits)
        if len(self.candidates) > 1:
            shares = shares + (bits - bits.detach()).unsqueeze(1) * self._slopes(index, bits)
        return self._usage_of(shares)

    @torch.no_grad()
    def derive(self) -> Tensor:
        return constant(self.candidates, torch.int64, self.step.device)[self._index(self._levels())]

    @torch.no_grad()
    def reluctance(self) -> Tensor:
        """Squared difference, in bits, between a candidate and `log2(x_max / d + 1) + 1` without rounding; what prunes,
        and is not derived, is as good as impossible."""
        exact = _bits((self._largest() / self._step()).double()).unsqueeze(1)
        wanted = (constant(self.candidates, exact.dtype, exact.device) - exact).square()
        wanted[:, : self.candidates.count(0)] = -math.log(SMALLEST)
        derived = self._one_hot(self._index(self._levels()), exact) > 0
        return wanted.masked_fill(derived, 0.0).cpu()

    @torch.no_grad()
    def start(self, preferences: Tensor) -> None:
        """At the preferred candidate; sub-groups that prefer none start as they are."""
        reach = constant(tuple(map(_reach, self.candidates)), self.step.dtype, self.step.device)
        begin = self._largest() / reach[preferences.argmax(1).to(reach.device)]
        decided = (preferences.amax(1) > preferences.amin(1)).to(self.step.device)
        self.step.copy_(torch.where(decided, begin, self.step))

    @torch.no_grad()
    def update(self) -> None:
        """Put the step between those of the lowest and the highest candidate."""
        largest = self._largest()
        ends = (largest / _reach(self.candidates[position]) for position in (-1, 0))
        self.step.copy_(torch.minimum(torch.maximum(self.step, next(ends)), next(ends)))

    def _largest(self) -> Tensor:
        """`x_max`; 1 as long as there is no quantizer."""
        return self._quantizer[0].largest() if self._quantizer else torch.ones_like(self.step)

    def _step(self) -> Tensor:
        return replace_forward(self.step, self.step.clamp(min=SMALLEST_STEP))

    def _levels(self) -> Tensor:
        """`k`, `(groups,)`, as a float."""
        exact = self._largest() / self._step()
        lowest, top = (math.floor(_reach(self.candidates[position])) for position in (0, -1))
        return replace_forward(exact, exact.round().clamp(lowest, top))

    def _index(self, levels: Tensor) -> Tensor:
        """Lowest candidate that has so many levels, as a position."""
        highest = tuple(float(2**bits // 2 - 1) if bits else 0.0 for bits in self.candidates)
        return torch.searchsorted(constant(highest, levels.dtype, levels.device), levels.detach())

    def _one_hot(self, index: Tensor, like: Tensor) -> Tensor:
        return nn.functional.one_hot(index, len(self.candidates)).to(like.dtype)

    def _slopes(self, index: Tensor, like: Tensor) -> Tensor:
        """How the share of each candidate changes with the bits: from the neighbour below to the one that is used, or
        from the lowest to its neighbour above; `(groups, candidates)`."""
        upper = index.clamp(min=1)
        gap = self._candidate_bits(like).diff()[upper - 1].unsqueeze(1)
        return (self._one_hot(upper, like) - self._one_hot(upper - 1, like)) / gap


def _reach(bits: int) -> float:
    """`x_max / d` of a precision, at least 1 where it prunes nothing; at 0 bits what is rounded to 0."""
    return max(2.0 ** (bits - 1) - 1, 1.0) if bits > 0 else BELOW_ONE_LEVEL


def _bits(levels: Tensor) -> Tensor:
    """Bits of so many levels on either side of zero, without ceiling."""
    return (levels + 1).log2() + 1
