"""The plainest score: how far the weights move."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ...core import PrecisionSpace
from .base import SCORERS, Scorer, never_rising, open_matrices, rounding_errors


@SCORERS.register("distance")
class DistanceScorer(Scorer):
    """Squared change of the weights of a sub-group; needs no data, and knows nothing about the task."""

    @torch.no_grad()
    def score(
        self, model: nn.Module, space: PrecisionSpace, batches: Iterable[Mapping] = ()
    ) -> dict[str, Tensor]:
        scores = {}
        for name, (module, spec) in open_matrices(model, space).items():
            errors = rounding_errors(module.weight, spec)
            columns = [spec.layout.reduce(error.square(), "sum").double() for error in errors]
            scores[name] = never_rising(torch.stack(columns, dim=1))
        return scores
