"""One precision at a time for the whole model, switched at will."""

import torch
from torch import Tensor

from ...core import Usage
from ..choice import Choice
from .base import GATES, Gate


@GATES.register("switch")
class SwitchGate(Gate):
    """Every sub-group at the precision that `set_precision` last named; starts at the highest, which is stored."""

    searching = False

    def __init__(self, groups: int, candidates: tuple[int, ...]):
        super().__init__(groups, candidates)
        self.active = candidates[-1]
        self.register_buffer("precisions", torch.tensor(candidates))

    def initialise(self, bits: tuple[int, ...] | None) -> None:
        self.active = self.candidates[-1]
        self.precisions.copy_(torch.tensor(self.candidates))

    def set_precision(self, bits: int) -> None:
        """Use `bits` from now on; raises ValueError when it is not a candidate."""
        if bits not in self.candidates:
            raise ValueError(f"{bits} bits are not among the nested precisions {self.candidates}")
        self.active = bits

    def choose(self) -> Choice:
        index = self.candidates.index(self.active)
        return Choice(index=torch.full((self.groups,), index, device=self.precisions.device))

    def usage(self) -> Usage:
        """The stored precision, which is the highest whatever is active."""
        stored = self.precisions == self.candidates[-1]
        return self._usage_of(stored.float().expand(self.groups, -1))

    def derive(self) -> Tensor:
        return torch.full((self.groups,), self.candidates[-1], device=self.precisions.device)
