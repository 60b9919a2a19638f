"""The plainest score: how far the weights move."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ...core import PrecisionSpace, track
from .base import SCORERS, Scorer, never_rising, open_matrices, squared_errors


@SCORERS.register("distance")
class DistanceScorer(Scorer):
    """Squared change of the weights of a sub-group; needs no data, and knows nothing about the task.

    Args:
        progress: show a progress bar.
    """

    needs_data = False

    def __init__(self, progress: bool = False):
        self.progress = progress

    @torch.no_grad()
    def score(self, model: nn.Module, space: PrecisionSpace, batches: Iterable[Mapping] = ()) -> dict[str, Tensor]:
        return {
            name: never_rising(squared_errors(module.weight, spec))
            for name, (module, spec) in track(open_matrices(model, space).items(), "scoring", disable=not self.progress)
        }
