"""Bit planes that are stripped off where they are all zero (BSQ)."""

import torch
from torch import Tensor

from ...core import Usage
from ..choice import Choice
from .base import GATES
from .planes import PlaneGate, planes_at


@GATES.register("stripped-planes")
class StrippedPlanesGate(PlaneGate):
    """Planes that are open until `strip` says which of them are used: BSQ's scheme adjustment (Yang et al., ICLR 2021).
    It learns nothing: planes are emptied by a penalty on their values, see the schedule `"bit-sparsity"`.

    Attributes:
        open: `(groups, planes)` bool, lowest plane first.
        worth: how much each plane is wanted where a budget takes some away: its squared value in the weights,
            `(groups, planes)`.
    """

    name = "stripped-planes"

    def __init__(self, groups: int, candidates: tuple[int, ...]):
        super().__init__(groups, candidates)
        self.register_buffer("open", torch.ones(groups, self.planes, dtype=torch.bool))
        self.register_buffer("worth", torch.ones(groups, self.planes))
        self.initialise(None)

    @torch.no_grad()
    def initialise(self, bits: tuple[int, ...] | None) -> None:
        self.open.fill_(True)
        self.worth.copy_(4.0 ** torch.arange(self.planes))

    def wanted(self) -> Tensor:
        return torch.where(self.open, self.worth.clamp(min=torch.finfo(torch.float32).tiny), -1.0)

    def choose(self) -> Choice:
        return Choice(planes=self.open.float(), window=self.window(self._index()))

    def usage(self) -> Usage:
        """The planes that are open, and a bit for the sign."""
        keep = self.open.any(1).float()
        return Usage(bits=self.open.sum(1) + keep, keep=keep, likeliest=self.derive())

    @torch.no_grad()
    def uncertainty(self) -> Tensor:
        return torch.zeros_like(self.worth[:, 0])

    @torch.no_grad()
    def strip(self, ones: Tensor, scale: Tensor) -> None:
        """Close the planes above the highest and below the lowest that is used, open those between.

        Args:
            ones: how many ones each plane has, `(groups, planes)`.
            scale: value of the lowest plane, `(groups,)`.
        """
        used = ones > 0
        least = self.wanted().argmax(1, keepdim=True)
        if self.candidates[0] > 0:  # something stays
            used = used.scatter(1, least, used.gather(1, least) | ~used.any(1, keepdim=True))
        above, below = used.int().flip(1).cummax(1).values.flip(1), used.int().cummax(1).values
        self.open.copy_(above.bool() & below.bool())
        places = torch.arange(self.planes, device=ones.device)
        self.worth.copy_(4.0**places * ones * scale.square().unsqueeze(1))

    @torch.no_grad()
    def start(self, preferences: Tensor) -> None:
        """With the highest planes of the preferred candidate open; sub-groups that prefer none start as they are."""
        counts = torch.tensor(list(map(planes_at, self.candidates)))[preferences.argmax(1).cpu()]
        begin = torch.arange(self.planes) >= self.planes - counts.unsqueeze(1)
        decided = (preferences.amax(1) > preferences.amin(1)).to(self.open.device).unsqueeze(1)
        self.open.copy_(torch.where(decided, begin.to(self.open.device), self.open))
