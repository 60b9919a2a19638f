"""One of several precisions at a time, without a preference among them."""

import math

import torch
from torch import Tensor

from ...core import Usage, constant
from ..choice import Choice
from .base import GATES, SMALLEST, Gate


@GATES.register("sampled")
class SampledGate(Gate):
    """Every sub-group has a set of candidates that paths may take; it learns nothing, and prefers none.

    Left alone it uses the highest precision that is allowed. What it expects is an even draw from the set: the gate of
    super-nets whose passes take drawn paths (one-shot weight coupling, CVPR 2024).

    The buffer `sets` holds what is allowed, `(groups, candidates)` bool.
    """

    limited = True

    def __init__(self, groups: int, candidates: tuple[int, ...]):
        super().__init__(groups, candidates)
        self.register_buffer("sets", torch.ones(groups, len(candidates), dtype=torch.bool))

    def initialise(self, bits: tuple[int, ...] | None) -> None:
        self.sets.fill_(True)

    @property
    def allowed(self) -> Tensor:
        return self.sets

    @torch.no_grad()
    def allow(self, allowed: Tensor) -> None:
        if allowed.shape != self.sets.shape or not allowed.any(1).all():
            raise ValueError(
                f"each of {self.groups} sub-groups is left some of the candidates {self.candidates}: give "
                f"{tuple(self.sets.shape)} booleans"
            )
        self.sets.copy_(allowed)

    def choose(self) -> Choice:
        return Choice(index=self.highest_path())

    def usage(self) -> Usage:
        """Every candidate that is allowed alike."""
        return self._usage_of(self.sets.float() / self.sets.sum(1, keepdim=True))

    def derive(self) -> Tensor:
        return constant(self.candidates, torch.int64, self.sets.device)[self.highest_path()]

    @torch.no_grad()
    def reluctance(self) -> Tensor:
        """How many candidates are above each; far more for one that is not allowed."""
        above = torch.arange(len(self.candidates), dtype=torch.float64).flip(0)
        return torch.where(self.sets.cpu(), above, above - math.log(SMALLEST))
