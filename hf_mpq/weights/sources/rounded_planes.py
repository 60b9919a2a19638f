"""Bit planes that are floats, rounded as a sum (BSQ)."""

import torch
from torch import Tensor

from ...core import replace_forward
from ..choice import PlaneWindow
from .base import SOURCES
from .planes import PlaneSource

LARGEST = 2.0
"""A plane is kept between 0 and this, so that a code can grow by a bit until it is taken apart anew."""


@SOURCES.register("rounded-planes")
class RoundedPlanes(PlaneSource):
    """The bit representation of BSQ (Yang et al., ICLR 2021): planes are floats from 0 to 2, and their sum is rounded
    to a whole code, straight-through, so that the gradient of plane b is `2^b` times that of the code.

    Corrected here: one sign per weight in place of a positive and a negative set of planes, as in `"planes"`.
    """

    def unit(self, name: str) -> Tensor:
        return torch.ones_like(self.scale[:1])

    def values(self) -> Tensor:
        return self.planes

    def magnitudes(self, selected: Tensor, window: PlaneWindow | None) -> Tensor:
        total = self._sum(self.planes, selected)
        return total if window is None else replace_forward(total, self._within(total, window))

    @torch.no_grad()
    def clamp(self, opened: Tensor) -> None:
        """Keep planes from 0 to 2, and closed ones at 0; `opened` `(groups, planes)` bool."""
        lines = self.layout.expand(opened).T
        free = lines.unsqueeze(2) if self.layout.axis == 0 else lines.unsqueeze(1)
        self.planes.clamp_(0, LARGEST).mul_(free)

    @torch.no_grad()
    def rebinarise(self, window: PlaneWindow) -> Tensor:
        """Take the rounded sums apart into planes of 0 and 1, with a bit above the window where they overflow it;
        returns how many ones each plane has in each sub-group, `(groups, planes)`."""
        step = self._broadcast(2.0**window.lowest)
        codes = torch.round(self._sum(self.planes, None) / step) * step
        codes = torch.minimum(codes, torch.floor((2**self.count - 1) / step) * step)
        self.set_codes(codes.clamp(min=0))
        return torch.stack([self.layout.reduce(plane, "sum") for plane in self.planes], dim=1)

    def _of_bits(self, bits: Tensor) -> Tensor:
        return bits
