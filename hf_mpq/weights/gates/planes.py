"""A precision that follows from the bit planes that are open."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ...core import Usage, constant
from ..choice import Choice, PlaneWindow
from ..ranges import RangedPart
from .base import GATES, Gate
from .tempered import TemperedGate

LATER = 1e-6
"""What a candidate above the one that is derived is wanted less, for each that lies between."""


class PlaneGate(Gate):
    """Base of gates that say which bit planes of a source are open; a sub-group takes the bits from its lowest open
    plane to its highest and one for the sign, or the next candidate above, and 0 with none.

    Nothing is stored of closed planes above and below; those between cost their bit. The papers count the open ones.
    """

    name: ClassVar[str]
    selects_planes = True

    @property
    def planes(self) -> int:
        """How many there are to choose from."""
        return max(self.candidates[-1] - 1, 1)

    @abstractmethod
    def wanted(self) -> Tensor:
        """How much each plane is wanted, lowest first, `(groups, planes)`; those above 0 are open."""

    def decide_for(self, quantizer: RangedPart) -> None:
        positive = [bits for bits in self.candidates if bits > 0]
        if positive[:1] == [1]:
            raise ValueError("bit planes need a sign beside them: leave 1 out of the bits")
        if not all(quantizer.holds_codes(bits) for bits in positive):
            raise ValueError(
                f"gate={type(self).name!r} selects bit planes of weights, whose codes {type(quantizer).__name__} does "
                "not hold: choose quantizer={'name': 'symmetric', 'two_bits': 'ternary'}, or 'lsq' with the same option"
            )

    def forward(self) -> Choice:
        if self.path is None:
            return self.choose()
        return Choice(index=self.path, planes=self._open().float(), window=self.window(self.path))

    def window(self, index: Tensor) -> PlaneWindow:
        """The planes that each sub-group has at a candidate: those whose loss is wanted most, the lowest of equals.

        Args:
            index: positions in the candidates, `(groups,)`.
        """
        counts = constant(tuple(map(planes_at, self.candidates)), torch.int64, index.device)
        lowest = self._windows()[1].gather(1, index.unsqueeze(1)).squeeze(1)
        return PlaneWindow(lowest, counts[index])

    @torch.no_grad()
    def derive(self) -> Tensor:
        return constant(self.candidates, torch.int64, self.device)[self._index()]

    @torch.no_grad()
    def reluctance(self) -> Tensor:
        """Sum over the open planes that must be closed for a candidate of how much they are wanted."""
        place = torch.arange(len(self.candidates), device=self.device)
        above = (place - self._index().unsqueeze(1)).clamp(min=0)
        return (self._windows()[0].double() + LATER * above).cpu()

    def _open(self) -> Tensor:
        return self.wanted().detach() > 0

    def _index(self) -> Tensor:
        """The lowest candidate that closes nothing, as a position."""
        return (self._windows()[0] == 0).int().argmax(1)

    @torch.no_grad()
    def _windows(self) -> tuple[Tensor, Tensor]:
        """For each candidate what must be closed at the best place of its planes, and the lowest plane there:
        `(groups, candidates)` both."""
        wanted = self.wanted().detach().relu()
        found = [self._best(wanted, planes_at(bits)) for bits in self.candidates]
        closed, lowest = zip(*found)
        return torch.stack(closed, dim=1), torch.stack(lowest, dim=1)

    def _best(self, wanted: Tensor, count: int) -> tuple[Tensor, Tensor]:
        if count == 0:
            return wanted.sum(1), torch.zeros(self.groups, dtype=torch.int64, device=wanted.device)
        inside = torch.eye(self.planes, device=wanted.device).unfold(0, count, 1).sum(2)  # (places, planes)
        return (wanted @ (1 - inside).T.to(wanted.dtype)).min(1)


def planes_at(bits: int) -> int:
    """Bit planes beside the sign at a precision."""
    return max(bits - 1, 0)


@GATES.register("planes")
class BitSelectionGate(PlaneGate, TemperedGate):
    """The bit selection of CSQ (Xiao et al., DAC 2023): plane b counts by `sigmoid(beta m_b)`, which becomes 0 or 1 as
    beta, one over the temperature, grows. Nothing is drawn, and no gradient is approximated.

    Here over `sigmoid(beta)`, its value at the start, `m_b = 1`: a gate that has not moved changes no weight while beta
    grows, though the plain product grows by 1.36 from beta 1 to 200.

    What it expects to use is the sum of the sigmoids, and a bit for the sign.

    Attributes:
        logits: `m_b`, lowest plane first, `(groups, planes)`. Where 0 is no candidate the largest of a sub-group stays
            above zero.
    """

    name = "planes"
    first_logit = 1.0
    LEAST = 0.1

    def __init__(self, groups: int, candidates: tuple[int, ...], temperature: float = 1.0):
        TemperedGate.__init__(self, groups, candidates, max(candidates[-1] - 1, 1), temperature)

    def wanted(self) -> Tensor:
        return self.logits

    def choose(self) -> Choice:
        return Choice(planes=self._shares() / torch.sigmoid(self.first_logit / self.temperature))

    def usage(self) -> Usage:
        shares = self._shares()
        keep = 1 - (1 - shares).prod(1) if self.candidates[0] == 0 else torch.ones_like(shares[:, 0])
        return Usage(bits=shares.sum(1) + keep, keep=keep, likeliest=self.derive())

    @torch.no_grad()
    def uncertainty(self) -> Tensor:
        """Mean over the planes of how far each is from being open or closed, 0 to 1/2."""
        shares = self._shares()
        return torch.minimum(shares, 1 - shares).mean(1)

    @torch.no_grad()
    def start(self, preferences: Tensor) -> None:
        """With the highest planes of the preferred candidate open; sub-groups that prefer none start as they are."""
        counts = torch.tensor(list(map(planes_at, self.candidates)))[preferences.argmax(1).cpu()]
        begin = torch.where(torch.arange(self.planes) >= self.planes - counts.unsqueeze(1), 1.0, -1.0)
        decided = (preferences.amax(1) > preferences.amin(1)).to(self.logits.device).unsqueeze(1)
        self.logits.copy_(torch.where(decided, self.first_logit * begin.to(self.logits), self.logits))

    @torch.no_grad()
    def update(self) -> None:
        if self.candidates[0] > 0:
            best = self.logits.argmax(1, keepdim=True)
            self.logits.scatter_(1, best, self.logits.gather(1, best).clamp(min=self.LEAST))

    def _shares(self) -> Tensor:
        return torch.sigmoid(self.logits / self.temperature)
