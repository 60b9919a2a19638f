"""A differentiable mixture of the candidates."""

import torch
from torch import Tensor

from ...core import Usage, constant
from ..choice import Choice
from .base import GATES, SMALLEST
from .tempered import TemperedGate


@GATES.register("softmax")
class SoftmaxGate(TemperedGate):
    """Softmax of learned logits over a temperature.

    Attributes:
        logits: `(groups, candidates)`; AQ-BERT's log beta.
    """

    by_group = ("logits",)
    by_part = ("temperature",)

    def __init__(self, groups: int, candidates: tuple[int, ...], temperature: float = 1.0):
        super().__init__(groups, candidates, len(candidates), temperature)

    @torch.no_grad()
    def start(self, preferences: Tensor) -> None:
        self.logits.copy_(preferences)

    @torch.no_grad()
    def reluctance(self) -> Tensor:
        """Minus the logarithm of each candidate's probability."""
        return -self.usage().probabilities.cpu().double().clamp(min=SMALLEST).log()

    @torch.no_grad()
    def shares(self) -> Tensor:
        return torch.softmax(self.logits / self.temperature, dim=1)

    def choose(self) -> Choice:
        return Choice(probabilities=torch.softmax(self.logits / self.temperature, dim=1))

    def usage(self) -> Usage:
        return self._usage_of(torch.softmax(self.logits / self.temperature, dim=1))

    def derive(self) -> Tensor:
        return constant(self.candidates, torch.int64, self.logits.device)[self.logits.argmax(dim=1)]
