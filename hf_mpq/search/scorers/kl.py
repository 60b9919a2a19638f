"""The slow and sure score: quantize one sub-group, look at the outputs."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from ...core import PrecisionSpace, SubgroupLayout, WeightSpec, input_of, track
from .base import SCORERS, Scorer, check_choice, never_rising, open_matrices, rounding_errors
from .divergence import Reference, divergence, reference_of
from .inputs import Inputs, candidates_of, open_inputs, rounded_input


@SCORERS.register("kl")
class DivergenceScorer(Scorer):
    """`S(b)`: measured divergence per example of the model's outputs from the float ones with only this sub-group
    rounded, or only this input where its bits are open; see `output_divergence` for every head. Later encoder layers
    are run again, earlier ones are not.

    It takes a pass over the batches for each sub-group and precision: hours for a large encoder with many sub-groups.
    `per="matrix"` measures each whole matrix instead and shares the result out by the squared change of the weights.

    Args:
        per: what is measured alone, a sub-`"group"` or a `"matrix"`.
        cache: keep the outputs of all encoder layers on all batches, to begin passes at the changed layer.
        progress: show a progress bar with the time that remains.
    """

    def __init__(self, per: str = "group", cache: bool = True, progress: bool = False):
        self.per, self.cache, self.progress = check_choice("per", per, ("group", "matrix")), cache, progress

    def forward_passes(self, space: PrecisionSpace, batches: int) -> float:
        return batches * (2.0 + self._passes(space) * (0.6 if self.cache else 1.0))

    def score(self, model: nn.Module, space: PrecisionSpace, batches: Iterable[Mapping]) -> dict[str, Tensor]:
        layers, reference = open_matrices(model, space), reference_of(model, batches, self.cache)
        scores = {
            name: torch.zeros(spec.layout.count, len(spec.candidates), dtype=torch.float64)
            for name, (_, spec) in layers.items()
        }
        inputs = open_inputs(model, space)
        scores |= {input_of(name): torch.zeros(1, len(spec.candidates)).double() for name, (_, spec) in inputs.items()}
        total = self._passes(space)
        measured = chain(self._measured(model, layers, reference), _measured_inputs(model, inputs, reference))
        for name, groups, column, found in track(measured, "divergences", total=total, disable=not self.progress):
            scores[name][groups, column] = found
        return {name: never_rising(table) for name, table in scores.items()}

    def _passes(self, space: PrecisionSpace) -> int:
        """How often all batches are run."""
        inputs = sum(len(one.candidates) for name, one in space.open_choices.items() if name not in space.weights)
        return sum(map(self._units, space.weights.values())) + inputs

    def _units(self, spec: WeightSpec) -> int:
        groups = spec.layout.count if self.per == "group" else 1
        return groups * len(spec.candidates) if len(spec.candidates) > 1 else 0

    def _measured(self, model: nn.Module, layers: Mapping, reference: Reference) -> Iterator[tuple]:
        """Name, sub-group (or all), column and score of everything that is measured."""
        for name, (module, spec) in layers.items():
            for column, error in enumerate(rounding_errors(module.weight, spec)):
                if self.per == "matrix":
                    shares = spec.layout.reduce(error.square(), "sum").double().cpu()
                    shares = shares / shares.sum().clamp(min=torch.finfo(torch.float64).tiny)
                    mean = float(divergence(model, {name: error}, reference).mean())
                    yield name, slice(None), column, mean * shares
                    continue
                for group in range(spec.layout.count):
                    change = only_groups(error, spec.layout, [group])
                    yield name, group, column, float(divergence(model, {name: change}, reference).mean())


def _measured_inputs(model: nn.Module, inputs: Inputs, reference: Reference) -> Iterator[tuple]:
    for name, (module, spec) in inputs.items():
        for column, quantizer in enumerate(candidates_of(spec)):
            with rounded_input(module, quantizer):
                yield input_of(name), 0, column, float(divergence(model, {}, reference, touched=(name,)).mean())


def only_groups(change: Tensor, layout: SubgroupLayout, groups: Iterable[int]) -> Tensor:
    """A change of a weight `(out, in)` kept in some sub-groups and zero elsewhere."""
    kept = torch.zeros(layout.count, dtype=torch.bool, device=change.device)
    kept[list(groups)] = True
    lines = layout.expand(kept)
    return change * (lines.unsqueeze(1) if layout.axis == 0 else lines)
