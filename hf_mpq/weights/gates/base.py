"""The contract of every gate."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ...core import Registry, Usage, constant
from ..choice import Choice

GATES: Registry[type["Gate"]] = Registry("gate")


class Gate(nn.Module, ABC):
    """Yields the precision of each of `groups` sub-groups out of `candidates`.

    Attributes:
        searching: whether the precision is still open; False once it is one per sub-group.
    """

    searching = True

    def __init__(self, groups: int, candidates: tuple[int, ...]):
        super().__init__()
        self.groups = groups
        self.candidates = candidates

    @abstractmethod
    def forward(self) -> Choice:
        """What this forward pass uses."""

    @abstractmethod
    def usage(self) -> Usage:
        """What is expected, without noise; differentiable where the gate is."""

    @abstractmethod
    def derive(self) -> Tensor:
        """The precision that each sub-group would get now: `(groups,)` int64."""

    def redraw(self, generator: torch.Generator) -> None:
        """Take the noise of the passes that follow from a generator on the CPU, where the gate has any."""

    def update(self) -> None:
        """Called once per optimizer step, outside autograd."""

    def initialise(self, bits: tuple[int, ...] | None) -> None:
        """Set the start; `bits` `(groups,)` where the precision is given."""

    def _candidate_bits(self, like: Tensor) -> Tensor:
        return constant(self.candidates, like.dtype, like.device)

    def _usage_of(self, probabilities: Tensor) -> Usage:
        keep = probabilities[:, self.candidates.count(0) :].sum(1)
        bits = probabilities @ self._candidate_bits(probabilities)
        return Usage(bits=bits, keep=keep, probabilities=probabilities)
