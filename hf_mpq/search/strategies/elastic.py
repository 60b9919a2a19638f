"""One super-model for many shapes, and a search for the best within a latency."""

import random
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, ClassVar

from torch import Tensor, nn

from ...core import Assignment, BudgetError, ModelShape, PrecisionSpace, say
from ...cost import Limits
from ...cost.shape_latency import ShapeLatencies
from ...nn.importance import put_in_order
from ...nn.layer_choice import LAYER_RULES
from ...nn.reshape import sizes_of
from ...nn.walk import calibrate_weights, derive
from ..evolution import Evolution, Gene
from ..judge import Judge
from ..subnets import Sizes, SubNets
from .base import STRATEGIES, Pass, Progress, SearchStrategy

_DRAWS = 5
"""Keeps these random numbers apart from all others of a stage."""
CHANCES = {"layers": 0.25, "hidden": 0.5, "rows": 0.5}
REACHES = {"layers": 1, "hidden": 1, "rows": 2}
"""Of mutations, as in Bigger & Faster."""


@STRATEGIES.register("elastic")
class ElasticSearch(SearchStrategy):
    """Trains a super-model at many shapes at once, then searches the shape (Bigger & Faster, Bailey et al., 2022, after
    AutoTinyBERT, Yin et al., ACL 2021; reconstructed from their code).

    A step has passes at the whole shape, taught by the float model, at the smallest one and at drawn ones, taught by
    the first (the sandwich of Yu and Huang, 2019; the paper draws one shape a step). A sub-net has the first part of
    every parameter, and runs quantized as it will be packed. At the end an evolution measures what sub-nets do as they
    are, among those whose predicted latency on this machine is within the target, and the best is cut out: an ordinary
    model of a smaller config.

    Args:
        space, limits: as of `SearchStrategy`; limits are not looked at.
        layers, hidden, rows: choices of each, ascending; None: every number of layers from half, and five sizes from
            half, of which hidden ones keep the size of heads.
        target: milliseconds of a forward pass, or below 1 a share of what the whole model takes.
        batch, tokens: of the input that is timed.
        backend: that times shapes, as of `hf_mpq.prepare`; "float" times float models in place of int8 ones, which is
            what the paper compares with.
        window: cost of a shape that is looked at, at least, as a share of the target.
        draws: shapes drawn in a step.
        choose: rule that says which layers a shape of so many has; see `hf_mpq.nn.layer_choice`.
        first, population, generations: of the evolution.
        measured, held_out: shapes that are timed for the prediction, and to say how far off it is.

    Raises:
        ValueError: for choices that are no ascending sizes, or a target or window that is none.
    """

    searches = False
    shapes: ClassVar[bool] = True

    def __init__(
        self,
        space: PrecisionSpace,
        limits: Limits,
        layers: Sequence[int] | None = None,
        hidden: Sequence[int] | None = None,
        rows: Sequence[int] | None = None,
        target: float = 0.5,
        batch: int = 1,
        tokens: int = 128,
        window: float = 0.85,
        draws: int = 2,
        choose: str = "even",
        first: int = 10,
        population: int = 25,
        generations: int = 4,
        measured: int = 24,
        held_out: int = 6,
        backend: str = "auto",
    ):
        super().__init__(space, limits)
        if target <= 0 or not 0 <= window < 1 or min(draws, measured, held_out) < 0:
            raise ValueError("target is above 0, window a share below 1, and no count is below 0")
        self._given = {"layers": layers, "hidden": hidden, "rows": rows}
        for name, values in self._given.items():
            if values is not None and (not values or list(values) != sorted(set(values)) or min(values) < 1):
                raise ValueError(f"{name} are ascending sizes from 1, got {values!r}")
        self.target, self._window, self._draws = target, window, draws
        self.batch, self.tokens, self.backend = batch, tokens, backend
        self._rule, self._counts = LAYER_RULES[choose], (measured, held_out)
        self._evolution = {"first": first, "population": population, "generations": generations}
        self.subnets: SubNets | None = None
        self.choices: dict[str, tuple[int, ...]] = {}

    def take_subnets(self, subnets: SubNets) -> None:
        """Learn which model it is that is searched; before the first step, and after a resume.

        Raises:
            ValueError: when a choice is larger than the model, or its family is not known.
        """
        self.subnets, whole = subnets, sizes_of(subnets.model)
        sizes = {"layers": whole.layers, "hidden": whole.hidden, "rows": whole.rows}
        steps = {"layers": 1, "hidden": whole.head_size, "rows": 1}
        for name, size in sizes.items():
            given = self._given[name]
            self.choices[name] = _default(size, steps[name]) if given is None else tuple(given)
            if self.choices[name][-1] > size:
                raise ValueError(f"{name} of a sub-net are at most {size}, the model's; got {self.choices[name]}")
        self._whole = (whole.layers, whole.hidden, whole.rows)
        for one in product(*self.choices.values()):
            self._shape(one)

    def prepare(self, model: nn.Module, scores: Mapping[str, Tensor] | None = None) -> None:
        """Put rows, heads and hidden dimensions in the order of their weights, so that sub-nets have the largest; and
        measure how long shapes take, so that a target that none meets is said before anything is trained.

        Raises:
            BudgetError: when no shape is within the target, or the model cannot read inputs of so many tokens.
        """
        self._search(self._latencies())
        put_in_order(model, rows=True, heads=True, hidden=True)
        calibrate_weights(model)

    def passes(self, progress: Progress) -> tuple[Pass, ...]:
        """The whole model, the smallest sub-net, and drawn ones: the same in all processes and micro-batches."""
        draw = random.Random(f"{progress.seed} {progress.step} {_DRAWS}")
        smallest = tuple(values[0] for values in self.choices.values())
        drawn = [tuple(map(draw.choice, self.choices.values())) for _ in range(self._draws)]
        names = ("smallest", *(f"drawn {number}" for number in range(1, self._draws + 1)))
        subnets = (Pass(name, shape=self._shape(one), teacher="whole") for name, one in zip(names, (smallest, *drawn)))
        return Pass("whole"), *subnets

    def derive(self, model: nn.Module, judge: Judge | None = None) -> tuple[nn.Module, Assignment]:
        """The best sub-net that was found within the target, as a model of its own.

        Raises:
            BudgetError: when no shape is within the target.
            ValueError: without a judge.
        """
        if judge is None:
            raise ValueError("a search of shapes measures sub-nets, and there is nothing to measure them on")
        latencies = self._latencies()
        evolution = self._search(latencies)
        found = evolution.search(lambda values: -self._damage(values, judge))
        small = self.subnets.elastic.extract(self._shape(tuple(found.values())))
        if judge.progress:
            words = ", ".join(f"{name} {size}" for name, size in found.items())
            say(
                f"shape: {words}; {latencies.milliseconds(**found):.2f} ms predicted, "
                f"{latencies.milliseconds(*self._whole):.2f} of the whole model, "
                f"{len(evolution.measured)} shapes measured on the teacher's outputs"
            )
        decided = derive(small)
        shape = self._shape(tuple(found.values()))
        return small, Assignment(decided.matrices, decided.activation_bits, shape)

    def _search(self, latencies: ShapeLatencies) -> Evolution:
        """Over the shapes within the target; raises BudgetError where there is none."""
        whole = latencies.milliseconds(*self._whole)
        target = self.target * whole if self.target < 1 else self.target
        genes = {name: Gene(values, CHANCES[name], REACHES[name]) for name, values in self.choices.items()}
        window = self._window * target, target
        found = Evolution(genes, lambda values: latencies.milliseconds(**values), window, **self._evolution)
        if not found.possible:
            raise BudgetError(f"{found.nothing()} ms: give other layers, hidden or rows, or another target")
        return found

    def _damage(self, values: Mapping[str, Any], judge: Judge) -> float:
        return judge.measure(self.subnets.elastic.extract(self._shape(tuple(values.values()))))

    def _latencies(self) -> ShapeLatencies:
        """Of this machine; how far off they are on held-out shapes is printed."""
        every = [one for one in product(*self.choices.values()) if one != self._whole]
        corners = list(product(*({values[0], values[-1]} for values in self.choices.values())))
        order = sorted(set(corners) & set(every)) + _shuffled([one for one in every if one not in corners])
        measured = min(self._counts[0], max(len(order) - self._counts[1], 5))
        shapes, held_out = order[:measured], order[measured : measured + self._counts[1]]
        found = self.subnets.latencies(shapes, held_out, self._shape)
        errors = found.errors()
        if errors:
            mean, most = sum(errors) / len(errors), max(errors)
            say(
                f"latency of shapes: {len(found.points)} measured; on {len(errors)} others the prediction is off by "
                f"{mean:.1%} on average, {most:.1%} at most"
            )
        return found

    def _shape(self, sizes: Sizes) -> ModelShape:
        layers, hidden, rows = sizes
        return ModelShape(self._rule(self.subnets.model, layers, ()), hidden, None, (rows,) * layers)


def _default(size: int, step: int) -> tuple[int, ...]:
    """The whole and smaller ones down to half, in multiples of a step."""
    count = min(4, size // step)
    found = {max(round(size * (1 - part / 8) / step), 1) * step for part in range(count + 1)}
    return tuple(sorted(found))


def _shuffled(shapes: list[Sizes]) -> list[Sizes]:
    random.Random(0).shuffle(shapes)
    return shapes
