"""A noisy relaxation of a discrete choice."""

from collections.abc import Sequence

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

    by_group = ("logits", "_drawn")
    _drawn: Tensor | None = None

    def redraw(self, generator: torch.Generator) -> None:
        self.redraw_all([self], generator)

    @classmethod
    def redraw_all(cls, gates: Sequence["GumbelGate"], generator: torch.Generator) -> None:
        alike = {(gate.logits.device, gate.logits.dtype) for gate in gates}
        if len(alike) > 1:
            return super().redraw_all(gates, generator)
        sizes = [gate.logits.numel() for gate in gates]
        every = torch.empty(sum(sizes)).exponential_(generator=generator)  # each has what it would draw in its turn
        noise = (-every.log()).to(gates[0].logits)
        for gate, part in zip(gates, noise.split(sizes)):
            gate._drawn = part.view(gate.logits.shape)

    def choose(self) -> Choice:
        if not self.training:
            return super().choose()
        noise = -torch.empty_like(self.logits).exponential_().log() if self._drawn is None else self._drawn
        return Choice(probabilities=torch.softmax((self.logits + noise) / self.temperature, dim=1))

    def usage(self) -> Usage:
        """How often each candidate is the largest, which the temperature does not change: `softmax(log beta)`."""
        return self._usage_of(torch.softmax(self.logits, dim=1))
