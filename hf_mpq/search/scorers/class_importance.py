"""Class-based importance (CQ): to how many classes a neuron matters."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ...core import PrecisionSpace, WeightSpec, track
from ...nn.heads import decisions_of
from .base import SCORERS, Scorer, check_choice, check_count, never_rising, open_matrices
from .classes import Classing, importance_loss
from .passes import Batch, batches_on, differentiating, tables
from .pathways import PathwayRecorder

LITERAL_THRESHOLD = 1e-50
"""Of the public code; in float32 it says: not exactly zero."""


@SCORERS.register("class-importance")
class ClassImportanceScorer(Scorer):
    """`S(b) = gamma * r(b)` with gamma between 0 and the number of classes (Sun et al., DATE 2023).

    A neuron is on the critical pathway of an example when `t = |a dL/da|` of its pre-activation output is above a share
    of the layer's largest; gamma sums over classes the share of examples where it is. Activations like GELU give almost
    no exact zeros, so that share is needed: the literal criterion would find every neuron critical everywhere. The
    gamma of a sub-group is the largest of its rows.

    The paper turns gamma into bits by thresholds; the table is ours: the relative error `r(b) = 4^-b`, 1 when pruned,
    the same for all sub-groups, so that gamma can be read off any column.

    See `Classing` for the classes of every head and `importance_loss` for L: labels are used where a batch has them,
    else the predicted classes. See `PathwayRecorder` for columns and tables.

    Args:
        criterion: `"relative"`, or the literal `"absolute"`, `t > 1e-50`.
        kappa: share of the layer's largest t in the same example that makes a neuron critical.
        tokens: how the tokens of an example are joined, `"max"` or `"mean"`.
        bins: classes of a regression's values, and of start positions.
        progress: show a progress bar.
    """

    def __init__(
        self,
        criterion: str = "relative",
        kappa: float = 1e-2,
        tokens: str = "max",
        bins: int = 5,
        progress: bool = False,
    ):
        self.criterion = check_choice("criterion", criterion, ("relative", "absolute"))
        self.tokens = check_choice("tokens", tokens, ("max", "mean"))
        if not 0 <= kappa < 1:
            raise ValueError(f"kappa is a share of the layer's largest score, from 0 to below 1, got {kappa}; use 0.01")
        self.kappa, self.bins, self.progress = kappa, check_count("bins", bins), progress

    def forward_passes(self, space: PrecisionSpace, batches: int) -> float:
        return 3.5 * batches

    def score(self, model: nn.Module, space: PrecisionSpace, batches: Iterable[Mapping]) -> dict[str, Tensor]:
        importance = self.importance(model, space, batches)
        specs = {name: spec for name, (_, spec) in open_matrices(model, space).items()}
        return {name: never_rising(_table(importance[name], spec)) for name, spec in specs.items()}

    def importance(self, model: nn.Module, space: PrecisionSpace, batches: Iterable[Mapping]) -> dict[str, Tensor]:
        """Gamma of every line (row, or column of a layout of columns) of every open matrix: name to `(lines,)`."""
        given, reached = batches_on(model, batches), tables(model)
        with differentiating(model, reached):
            classing = Classing.of(model, given, self.bins)
            recorders = {
                name: PathwayRecorder(module, spec, classing.count, self.critical, self.tokens)
                for name, (module, spec) in open_matrices(model, space).items()
            }
            try:
                for batch in track(given, "class pathways", disable=not self.progress):
                    self._run(model, batch, classing, recorders, reached)
            finally:
                for recorder in recorders.values():
                    recorder.hook.remove()
        return {name: recorder.importance() for name, recorder in recorders.items()}

    def critical(self, taylor: Tensor) -> Tensor:
        """Which neurons are on the pathway of each example: `(n, neurons)` to bool."""
        if self.criterion == "absolute":
            return taylor > LITERAL_THRESHOLD
        return taylor > self.kappa * taylor.amax(1, keepdim=True)

    def _run(
        self, model: nn.Module, batch: Batch, classing: Classing, recorders: dict[str, PathwayRecorder], reached: list
    ) -> None:
        outputs = decisions_of(model.config, model(**batch.inputs), batch.mask)
        labels = classing.classes(outputs, batch)
        for recorder in recorders.values():
            recorder.batch, recorder.labels = batch, labels
        torch.autograd.grad(importance_loss(outputs, batch), reached, allow_unused=True)


def _table(importance: Tensor, spec: WeightSpec) -> Tensor:
    """`(groups, candidates)`"""
    gamma = spec.layout.reduce_lines(importance, "amax")
    errors = torch.tensor([4.0**-bits for bits in spec.candidates], dtype=torch.float64, device=gamma.device)
    return gamma.unsqueeze(1) * errors
