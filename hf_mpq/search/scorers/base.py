"""The contract of every scorer."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ...core import PrecisionSpace, Registry, WeightSpec
from ...nn import absolute_name
from ...weights import QUANTIZERS

SCORERS: Registry[type["Scorer"]] = Registry("scorer")


class Scorer(ABC):
    """Says how much each choice hurts; 0 bits (pruned) is on the same scale as every precision."""

    @abstractmethod
    def score(self, model: nn.Module, space: PrecisionSpace, batches: Iterable[Mapping]) -> dict[str, Tensor]:
        """Score every matrix of `space` that has a choice.

        Args:
            model: the float model that `space` was resolved for.
            batches: keyword arguments of the model's forward; labels in them are not used.

        Returns:
            Name to `(groups, candidates)` float64, lower is better, never rising with the bits.
        """


def open_matrices(model: nn.Module, space: PrecisionSpace) -> dict[str, tuple[nn.Module, WeightSpec]]:
    """Name to float layer and spec of every matrix with more than one candidate."""
    return {
        name: (model.get_submodule(absolute_name(model, name)), spec)
        for name, spec in space.weights.items()
        if len(spec.candidates) > 1
    }


@torch.no_grad()
def rounding_errors(weight: Tensor, spec: WeightSpec) -> list[Tensor]:
    """What each candidate changes in a float weight, each `(out, in)`; pruning changes all of it."""
    weight = weight.float()
    options = {"scale_dtype": getattr(torch, spec.scale_dtype), **spec.quantizer_options}
    quantizer = QUANTIZERS[spec.quantizer](spec.layout, spec.candidates, **options).to(weight.device)
    quantizer.calibrate(weight)
    return [quantizer.candidate(weight, bits) - weight if bits else -weight for bits in spec.candidates]


def never_rising(scores: Tensor) -> Tensor:
    """Raise a score that is below one at more bits to that one: more bits cannot truly hurt more.

    `(groups, candidates)`, candidates ascending.
    """
    return scores.flip(1).cummax(dim=1).values.flip(1)
