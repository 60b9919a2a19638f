"""A noisy relaxation of a discrete choice."""

import torch

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
