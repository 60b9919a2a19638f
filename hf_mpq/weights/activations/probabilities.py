"""Attention probabilities."""

import torch
from torch import Tensor

from .base import ACTIVATIONS, ActivationGrid, ActivationQuantizer


@ACTIVATIONS.register("probabilities")
class ProbabilityQuantizer(ActivationQuantizer):
    """Unsigned, with one range per row of the last axis: 0 to the row's largest."""

    name = "probabilities"

    def __init__(self, bits: int = 8):
        super().__init__(bits, symmetric=False)

    @property
    def options(self) -> dict:
        return {}

    def grid(self, x: Tensor) -> ActivationGrid:
        high = x.amax(dim=-1, keepdim=True)
        return self.grid_of_range(torch.zeros_like(high), high)
