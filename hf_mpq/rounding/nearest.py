"""Nearest rounding: what every quantized model starts with."""

from collections.abc import Mapping, Sequence

from torch import nn

from .base import ROUNDERS, Rounder


@ROUNDERS.register("nearest")
class NearestRounder(Rounder):
    """Leaves the model as it is: each weight at the nearest level under the scales that were scanned.

    Args:
        progress: taken for the sake of the contract.
    """

    needs_data = False

    def __init__(self, progress: bool = False):
        self.progress = progress

    def round(self, model: nn.Module, reference: nn.Module, batches: Sequence[Mapping]) -> None:
        """Nothing to do."""
