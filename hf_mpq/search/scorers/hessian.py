"""Curvature of the task loss: Hessian traces (HAWQ) and top eigenvalues (Q-BERT)."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from ...core import PrecisionSpace, track
from ...nn import encoder_blocks
from .base import SCORERS, Scorer, check_choice, check_count, never_rising, open_matrices, squared_errors
from .curvature import Curvature
from .passes import batches_on, differentiating, eager_attention


@SCORERS.register("hessian")
class HessianScorer(Scorer):
    """`S(b) = Omega / n * |Q_b(W) - W|^2` of a sub-group, with the curvature Omega of the task loss over n weights.

    `measure="trace"`: the Hessian's trace over the sub-group, by Hutchinson's estimate (HAWQ-V2, Dong et al., 2020;
    HAWQ-V3, Yao et al., 2021, whose layers are our sub-groups). A negative trace, of noise or of a model that is not at
    a minimum, counts as 0, so that the sub-group may go for nothing: with small sub-groups leave 0 bits out, or use
    `fisher`. `measure="eigenvalue"`: `|mean| + spread * std` of the Hessian's top eigenvalue over parts
    of the data (Q-BERT, Shen et al., 2020), of each matrix or of each encoder layer.

    The loss has the batch's labels, or the model's own predictions without any: see `task_loss`. Differentiating twice
    needs several times the memory of training, so batches should be small; attention is written out meanwhile.

    Args:
        measure: `"trace"` or `"eigenvalue"`.
        draws: at most this many passes over the batches for traces, with fresh random signs for each batch of each.
        splits: parts of the data for eigenvalues; at most one for each batch.
        iterations: at most this many power iterations on each part.
        spread: factor of the standard deviation over the parts (population formula); the paper's text and later readers
            differ between 1 and 2.
        per: eigenvalues of each `"matrix"`, or each encoder `"layer"`: all its open matrices together. What is in no
            layer stands alone.
        tolerance: stop earlier when the estimates change by less than this, relatively.
        seed: of the random vectors.
        progress: show a progress bar.
    """

    def __init__(
        self,
        measure: str = "trace",
        draws: int = 32,
        splits: int = 10,
        iterations: int = 20,
        spread: float = 1.0,
        per: str = "matrix",
        tolerance: float = 1e-3,
        seed: int = 0,
        progress: bool = False,
    ):
        self.measure = check_choice("measure", measure, ("trace", "eigenvalue"))
        self.per = check_choice("per", per, ("matrix", "layer"))
        self.draws, self.splits = check_count("draws", draws), check_count("splits", splits)
        self.iterations = check_count("iterations", iterations)
        if spread < 0:
            raise ValueError(f"spread must not be negative, got {spread}; use spread=0 to leave the deviation out")
        if tolerance < 0:
            raise ValueError(f"tolerance must not be negative, got {tolerance}; use tolerance=0 to never stop early")
        self.spread, self.tolerance, self.seed, self.progress = spread, tolerance, seed, progress

    def forward_passes(self, space: PrecisionSpace, batches: int) -> float:
        """At most; estimates that settle early cost less."""
        if self.measure == "trace":
            return 8.0 * self.draws * batches
        matrices = sum(len(spec.candidates) > 1 for spec in space.weights.values())
        blocks = matrices if self.per == "matrix" else max(1, matrices // 6)
        return batches * self.iterations * (3.0 + 5.0 * blocks)

    def score(self, model: nn.Module, space: PrecisionSpace, batches: Iterable[Mapping]) -> dict[str, Tensor]:
        layers = open_matrices(model, space)
        factors = self._factors(model, space, batches)
        return {
            name: never_rising(factors[name].unsqueeze(1) * squared_errors(module.weight, spec).cpu())
            for name, (module, spec) in track(layers.items(), "scoring", disable=not self.progress)
        }

    def sensitivities(self, model: nn.Module, space: PrecisionSpace, batches: Iterable[Mapping]) -> dict[str, float]:
        """Omega of the block of each matrix, before it is divided by n: what Q-BERT sorts its layers by.

        Of `measure="trace"`, the trace over the matrix, not clamped.
        """
        if self.measure == "trace":
            return {name: float(trace.sum()) for name, trace in self._traces(model, space, batches).items()}
        blocks = self._blocks(model, space)
        with self._curvature(model, space, batches) as curvature:
            parts = min(self.splits, len(curvature.batches))
            values = curvature.eigenvalues(blocks, parts, self.iterations)
        omegas = {block: found.mean().abs() + self.spread * found.std(correction=0) for block, found in values.items()}
        return {name: float(omegas[block]) for block, names in blocks.items() for name in names}

    def _factors(self, model: nn.Module, space: PrecisionSpace, batches: Iterable[Mapping]) -> dict[str, Tensor]:
        """Curvature over weights of each sub-group: name to `(groups,)`."""
        layouts = {name: spec.layout for name, (_, spec) in open_matrices(model, space).items()}
        sizes = {name: Tensor(layout.numel).double() for name, layout in layouts.items()}
        if self.measure == "trace":
            traces = self._traces(model, space, batches)
            return {name: traces[name].clamp(min=0) / sizes[name] for name in layouts}
        omegas = self.sensitivities(model, space, batches)
        totals = {
            name: sum(sizes[other].sum() for other in names)
            for names in self._blocks(model, space).values()
            for name in names
        }
        return {name: (omegas[name] / totals[name]).expand(layouts[name].count) for name in layouts}

    def _traces(self, model: nn.Module, space: PrecisionSpace, batches: Iterable[Mapping]) -> dict[str, Tensor]:
        layouts = {name: spec.layout for name, (_, spec) in open_matrices(model, space).items()}
        with self._curvature(model, space, batches) as curvature:
            return curvature.traces(layouts, self.draws)

    def _blocks(self, model: nn.Module, space: PrecisionSpace) -> dict[str, list[str]]:
        """Name of a layer or of a matrix to its open matrices."""
        layers = encoder_blocks(model) if self.per == "layer" else {}
        blocks: dict[str, list[str]] = {}
        for name in open_matrices(model, space):
            block = next((layer for layer in layers if name.startswith(f"{layer}.")), name)
            blocks.setdefault(block, []).append(name)
        return blocks

    @contextmanager
    def _curvature(self, model: nn.Module, space: PrecisionSpace, batches: Iterable[Mapping]) -> Iterator[Curvature]:
        weights = {name: module.weight for name, (module, _) in open_matrices(model, space).items()}
        given = batches_on(model, batches)
        with eager_attention(), differentiating(model, list(weights.values())):
            yield Curvature(model, weights, given, self.tolerance, self.seed, self.progress)
