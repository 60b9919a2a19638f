"""The steps of training-free compression, each of which can be called alone."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

from torch import Tensor, nn

from ..core import Assignment, Budgets, MatrixAssignment, MethodSpec, Part, PrecisionSpace, say
from ..cost import COSTS, LatencyTable, Limits, limits_of
from ..nn import calibrate_activations, correct_low_rank
from ..nn.pooling import embedding_outputs
from ..outliers import OUTLIERS, suppress_outliers
from ..plugin.config import MPQConfig
from ..plugin.verbs import fix, quantize
from ..rounding import ROUNDERS, correct_biases
from ..search import ALLOCATORS, SCORERS, Judge
from ..search.allocators.base import Scores
from ..search.allocators.members import check_patterns
from ..search.allocators.start import check_possible, no_scores, spending
from ..search.scorers import mean_divergence
from ..weights.quantizers.scan import RememberedScans
from .estimates import Estimates

OUTLIER_BITS = 8
"""Activations below this many bits get the default rule against outliers."""


class TrainingFree(Estimates):
    """Scores once; allocates, quantizes and rounds for as many budgets as wanted. The float model is left as it is.

    Args:
        model: float, in the type it will have.
        config: everything but the assignment.
        choice: scorer, allocator, rounding and their options; all three named.
        batches: keyword arguments of forward, as tensors.
        evaluate: a model's score, higher is better; allocators that measure use it. None: minus the divergence from
            the float model's outputs on `batches`.
        progress: print an estimate, and show progress bars.
        pooling: of a model without a head: scores are about its embeddings, see `hf_mpq.nn.pooling`; None: about the
            hidden states of all tokens.
        space: of the model, where it is made already.
        whole: the float model that scores are compared with, where `model` is a smaller one.

    Attributes:
        space: what may be chosen.
        latencies: what budgets in ms are measured by; None measures this machine, once.
        seconds: wall time spent in each step so far.
    """

    def __init__(
        self,
        model: nn.Module,
        config: MPQConfig,
        choice: MethodSpec,
        batches: Sequence[Mapping],
        evaluate: Callable[[nn.Module], float] | None = None,
        progress: bool = False,
        pooling: str | None = None,
        space: PrecisionSpace | None = None,
        whole: nn.Module | None = None,
    ):
        self._whole = model if whole is None else whole
        self.model, self.config, self.pooling = model, copy.deepcopy(config), pooling
        self.batches, self.evaluate, self.progress = batches, evaluate, progress
        self.choose(choice)
        if self.outlier_rule is not None and not self.config.input_affine:
            self.config.input_affine = {".*": list(OUTLIERS[self.outlier_rule.name].parts)}  # budgets have room for it
            space = None
        self.space = self.config.resolve(model) if space is None else space
        self.cost = COSTS["size"](self.space)
        self.latencies: LatencyTable | None = None
        self.seconds: dict[str, float] = {}
        self._limits: dict[tuple[Budgets, int], Limits] = {}
        self._scans = RememberedScans()
        self._reference: float | None = None
        self._evaluation_seconds = 0.0
        self._promised: dict[str, float] = {}
        self._float_outputs: list = []

    def choose(self, choice: MethodSpec) -> None:
        """Take other parts; scores are forgotten."""
        self.choice, self._scores = choice, None
        self.scorer = SCORERS.make(choice.scorer, options=choice.scorer_options, progress=self.progress)
        self.allocator = ALLOCATORS.make(choice.allocator, options=choice.allocator_options)
        self.rounder = ROUNDERS.make(choice.rounding, options=choice.rounding_options, progress=self.progress)

    @property
    def open(self) -> bool:
        """Whether there is anything to choose; nested codes serve every precision."""
        served = {name for name, spec in self.space.weights.items() if spec.nested}
        several = (name for name, one in self.space.open_choices.items() if len(one.candidates) > 1)
        return bool(self.space.open_patterns) or any(name not in served for name in several)

    @property
    def uses_scores(self) -> bool:
        """Whether the allocator looks at scores."""
        return self.open and self.allocator.reads_scores

    def scores(self) -> dict[str, Tensor]:
        """How much each choice hurts; computed at the first call."""
        if self._scores is None:
            with self._timed("scoring"), self._scans, embedding_outputs(self.model, self.pooling):
                self._scores = self.scorer.score(self.model, self.space, self.batches)
            self._correct("scoring")
        return self._scores

    def keep_scores(self, scores: dict[str, Tensor] | None) -> None:
        """Use scores that were computed before; None computes them when they are needed."""
        self._scores = scores

    def check_budgets(self, budgets: Budgets) -> None:
        """Raise BudgetError when no assignment can meet them all; nothing is scored for that."""
        self._check_patterns()
        check_possible(self.space, self.limits(budgets))

    def limits(self, budgets: Budgets) -> Limits:
        """What measures the budgets of one model, and the most that it may be; those in ms measure this machine only
        once."""
        key = budgets, id(self.latencies)
        if key not in self._limits:
            self._limits[key] = limits_of(self.space, budgets, self.latencies)
        return self._limits[key]

    def assignment(self, budgets: Budgets) -> Assignment:
        """The allocator's assignment that meets all budgets."""
        return self.finalists(budgets, 1)[0]

    def finalists(self, budgets: Budgets, count: int) -> list[Assignment]:
        """The allocator's best assignments that meet all budgets, at most `count`, the best first."""
        self._check_patterns()
        scores, limits = self._given_scores(), self.limits(budgets)
        with self._timed("allocation"):
            return self.allocator.finalists(self.space, limits, count, scores, self.damage, self.progress)

    def _given_scores(self) -> Scores | None:
        """Those that the allocator gets: zeros where all that it could choose has one precision."""
        if self.uses_scores:
            return self.scores()
        alone = all(len(one.candidates) == 1 for one in self.space.open_choices.values())
        return no_scores(self.space) if alone else None

    def _check_patterns(self) -> None:
        """Raise ValueError where patterns are open that the allocator does not choose, before anything is scored."""
        if not self.allocator.chooses_patterns:
            check_patterns(self.space)

    def tell(self, budgets: Budgets, assignment: Assignment) -> None:
        """Print how far an assignment uses each budget."""
        if self.progress:
            parts = (
                f"{spending(limit.cost.of(assignment), limit.most, limit.cost.unit)} ({limit.cost.what})"
                for limit in self.limits(budgets)
            )
            say(f"compress: it takes {' and '.join(parts)}")

    def everywhere(self, bits: int | None = None) -> Assignment:
        """Every open sub-group at `bits`, or at its highest precision, and every open input at its highest, or as the
        sub-groups."""
        chosen = {name: spec.candidates[-1] if bits is None else bits for name, spec in self.space.weights.items()}
        matrices = {
            name: MatrixAssignment(
                spec.bits or (chosen[name],) * spec.layout.count, keep_of=spec.keep_of, nested=spec.nested
            )
            for name, spec in self.space.weights.items()
        }
        return Assignment(matrices, dict(self._inputs(matrices)))

    def _inputs(self, matrices: Mapping[str, MatrixAssignment]) -> Iterator[tuple[str, int]]:
        for name, spec in self.space.weights.items():
            if spec.activation is not None:
                follows = spec.activation.follows
                yield name, spec.activation.following(matrices[name].bits) if follows else spec.activation.bits

    def damage(self, assignment: Assignment) -> float:
        """How much worse than the float model an assignment is with nearest rounding, lower is better."""
        pruned = any(0 in matrix.bits for matrix in assignment.matrices.values())  # which fix folds away
        if self.evaluate is None and not pruned:
            return self._judge.damage(assignment)
        model = self.quantized(assignment)  # of its own, for whatever evaluate does with it
        return self._divergence(model) if self.evaluate is None else self.reference() - self.evaluate(model)

    def _divergence(self, model: nn.Module) -> float:
        with embedding_outputs(self.model, self.pooling), embedding_outputs(model, self.pooling):
            return mean_divergence(self.model, model, self.batches, self._float_outputs)

    def reference(self) -> float:
        """The float model's own score."""
        if self._reference is None:
            start = self._now()
            self._reference = self.evaluate(self._whole)
            self._evaluation_seconds = self._now() - start
        return self._reference

    @cached_property
    def _prototype(self) -> nn.Module:
        """Quantized with all that is open; its scales are scanned once, for every candidate."""
        with self._scans:
            return quantize(copy.deepcopy(self.model), self.config)

    @cached_property
    def _judge(self) -> Judge:
        return Judge(self._prototype, self._divergence, keeps_blocks=True)

    def quantized(self, assignment: Assignment | None = None) -> nn.Module:
        """A quantized copy of the model, rounded to nearest; None takes the bits that the config fixes."""
        model = copy.deepcopy(self._prototype)
        return model if assignment is None else fix(model, assignment)

    def build(self, assignment: Assignment | None = None) -> nn.Module:
        """A quantized copy of the model, rounded as chosen."""
        with self._timed("quantization"):
            model = self.quantized(assignment)
            if self.batches:
                calibrate_activations(model, self.batches)
        rule = self.outlier_rule
        if rule is not None:
            with self._timed("outliers"):
                suppress_outliers(model, self.batches, rule)
        with self._timed("rounding"):
            self.rounder.round(model, self.model, self.batches)
            if any(spec.rank for spec in self.space.weights.values()):
                correct_low_rank(model, self.model, self.batches)
            if self.choice.bias_correction:
                correct_biases(model, self.model, self.batches, progress=self.progress)
        return model

    @property
    def outlier_rule(self) -> Part | None:
        """The rule against outliers: the chosen one; else shift and scale where activations may go below 8 bits."""
        if self.choice.outliers is None and self.batches and self.config.least_input_bits < OUTLIER_BITS:
            return Part("os+")
        return None if self.choice.outliers == Part("none") else self.choice.outliers
