"""A noisy relaxation of a discrete choice."""

import torch
from torch import Tensor

from ...core import Usage
from ..choice import Choice
from .base import GATES
from .softmax import SoftmaxGate


@GATES.register("gumbel")
class GumbelGate(SoftmaxGate):
    """Gumbel-softmax: `O = softmax((log beta + g) / t)` with `g = -log(-log u)` (AQ-BERT; Jang et al., 2017).

    There is noise in training mode only: what `redraw` drew last, the same in every pass until it draws again; before
    its first call anew in each forward pass, from torch's generator.
    """

    _drawn: Tensor | None = None

    def redraw(self, generator: torch.Generator) -> None:
        self._drawn = -torch.empty(self.logits.shape).exponential_(generator=generator).log().to(self.logits)

    def choose(self) -> Choice:
        if not self.training:
            return super().choose()
        noise = -torch.empty_like(self.logits).exponential_().log() if self._drawn is None else self._drawn
        return Choice(probabilities=torch.softmax((self.logits + noise) / self.temperature, dim=1))

    def usage(self) -> Usage:
        """How often each candidate is the largest, which the temperature does not change: `softmax(log beta)`."""
        return self._usage_of(torch.softmax(self.logits, dim=1))
