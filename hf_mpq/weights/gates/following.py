"""No choice of its own: the bits of an input that go with those of the matrix that reads it."""

import torch
from torch import Tensor

from ...core import Usage, constant
from ..choice import Choice
from .base import Gate


class FollowingGate(Gate):
    """One group, at the lowest candidate that is not below the highest precision of another gate's sub-groups, else at
    the highest candidate: GHOST's rule, where an activation has the bits of its layer (Zhang et al., 2023).

    Probabilities are those of the highest precision, with the sub-groups taken as independent. It is no registered gate
    and keeps nothing: what owns it says with `follow` what it goes with.
    """

    def __init__(self, candidates: tuple[int, ...]):
        super().__init__(1, candidates)
        self._leader: tuple[torch.nn.Module, ...] = ()  # in a tuple: not a submodule

    def follow(self, program: torch.nn.Module) -> None:
        """Go with the gate that a `WeightProgram` has at any time."""
        self._leader = (program,)

    @property
    def leader(self) -> Gate:
        """The gate that it goes with."""
        return self._leader[0].gate

    @property
    def searching(self) -> bool:
        """Whether that gate is."""
        return self.leader.searching

    @property
    def device(self) -> torch.device:
        return self.leader.device

    def choose(self) -> Choice:
        choice = self.leader()
        if choice.probabilities is not None:
            return Choice(probabilities=self._highest(choice.probabilities))
        if choice.index is None:
            return Choice(index=self._position(self.leader.derive()))
        bits = constant(self.leader.candidates, torch.int64, choice.index.device)[choice.index]
        return Choice(index=self._position(bits))

    def usage(self) -> Usage:
        probabilities = self.leader.usage().probabilities
        if probabilities is None:
            position = self._position(self.leader.derive())
            return self._usage_of(torch.nn.functional.one_hot(position, len(self.candidates)).float())
        return self._usage_of(self._highest(probabilities))

    def derive(self) -> Tensor:
        bits = self.leader.derive()
        return constant(self.candidates, torch.int64, bits.device)[self._position(bits)]

    def _position(self, bits: Tensor) -> Tensor:
        """Where the candidate for the highest of `bits` `(groups,)` is, `(1,)`."""
        own = constant(self.candidates, torch.int64, bits.device)
        return torch.searchsorted(own, bits.max().reshape(1)).clamp(max=len(self.candidates) - 1)

    def _highest(self, probabilities: Tensor) -> Tensor:
        """From probabilities `(groups, candidates)` of the sub-groups' precisions to those of the input's bits."""
        counts = [sum(bits <= edge for bits in self.leader.candidates) for edge in self.candidates[:-1]]
        within = [probabilities[:, :count].sum(1).prod() for count in counts]  # up to each edge
        edges = torch.stack([probabilities.new_zeros(()), *within, probabilities.new_ones(())])
        return edges.diff().unsqueeze(0)
