"""A differentiable mixture of the candidates."""

import torch
from torch import Tensor, nn

from ...core import Usage, constant
from ..choice import Choice
from .base import GATES, SMALLEST, Gate


@GATES.register("softmax")
class SoftmaxGate(Gate):
    """Softmax of learned logits over a temperature.

    Attributes:
        logits: `(groups, candidates)`; AQ-BERT's log beta.
        temperature: a buffer, so that it is saved; schedules set it with `set_temperature`.
    """

    def __init__(self, groups: int, candidates: tuple[int, ...], temperature: float = 1.0):
        super().__init__(groups, candidates)
        if temperature <= 0:
            raise ValueError(f"the temperature must be above zero, got {temperature}")
        self.start_temperature = temperature
        self.logits = nn.Parameter(torch.zeros(groups, len(candidates)))
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    def initialise(self, bits: tuple[int, ...] | None) -> None:
        nn.init.zeros_(self.logits)
        self.set_temperature(self.start_temperature)

    def set_temperature(self, temperature: float) -> None:
        """Set the temperature, above zero."""
        with torch.no_grad():
            self.temperature.fill_(temperature)

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

    def metrics(self) -> dict[str, float]:
        return {"temperature": float(self.temperature)}

    def choose(self) -> Choice:
        return Choice(probabilities=torch.softmax(self.logits / self.temperature, dim=1))

    def usage(self) -> Usage:
        return self._usage_of(torch.softmax(self.logits / self.temperature, dim=1))

    def derive(self) -> Tensor:
        return constant(self.candidates, torch.int64, self.logits.device)[self.logits.argmax(dim=1)]
