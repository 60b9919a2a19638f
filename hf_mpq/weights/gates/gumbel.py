"""A noisy relaxation of a discrete choice."""

import torch

from ...core import Usage
from ..choice import Choice
from .base import GATES
from .softmax import SoftmaxGate


@GATES.register("gumbel")
class GumbelGate(SoftmaxGate):
    """Gumbel-softmax: `O = softmax((log beta + g) / t)` with `g = -log(-log u)` (AQ-BERT; Jang et al., 2017).

    Noise is drawn in training mode only, anew in each forward pass, from torch's generator.
    """

    def forward(self) -> Choice:
        if not self.training:
            return super().forward()
        noise = -torch.empty_like(self.logits).exponential_().log()
        return Choice(probabilities=torch.softmax((self.logits + noise) / self.temperature, dim=1))

    def usage(self) -> Usage:
        """How often each candidate is the largest, which the temperature does not change: `softmax(log beta)`."""
        return self._usage_of(torch.softmax(self.logits, dim=1))
