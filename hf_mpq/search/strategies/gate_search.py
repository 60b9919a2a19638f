"""What every search through gates shares."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import groupby
from math import ceil
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...core import Assignment, MatrixAssignment, PrecisionSpace, Usage, Written, name_and_options
from ...cost import Limit, Limits
from ...nn.walk import reluctances
from ...weights.gates.tempered import set_temperatures
from ..allocators.base import Scores
from ..judge import Judge
from .base import Progress, SearchStrategy
from .compensation import compensate_pruned_share
from .gate_metrics import gate_metrics
from .open_gates import open_gates, set_plane_temperatures
from .penalties import PENALTIES, Target
from .projection import check_limits, likeliest
from .sampling import decided
from .seeding import seeded
from .start import FROM_SCORES, GATE_STARTS, start_logits
from .temperature import Temperature

DECISIONS = ("argmax", "projection")


class GateSearch(SearchStrategy):
    """A search through gates that can start from preferences, such as softmax and Gumbel-softmax mixtures.

    Args:
        space, limits: as of `SearchStrategy`.
        start: `"zeros"`, `"bits"` (precision over the highest one), `"top"` (surely the highest one) or `"scores"` (the
            training-free assignment).
        temperature: a number, `(start, end)` over the steps of the stage, or the fields of `Temperature`.
        optimizer: of the gates, `"sgd"` or `"adam"`, a part, with `learning_rate`; or its options in
            `optimizer_options`.
        penalty: part, its options in it or in `penalty_options`; None is the strategy's own with a budget, `"linear"`
            without. Each limit has its own; they add up.
        decision: `"argmax"`, the likeliest precision of each sub-group whatever it costs; `"projection"`, the likeliest
            assignment that meets the budget; None is the strategy's own.
        compensate_pruned: scale the weights once for what 0 bits take away at the start.

    Raises:
        ValueError: for an unknown word, or a combination that cannot work.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    """The strategy's own choices for what is not given."""

    def __init__(
        self,
        space: PrecisionSpace,
        limits: Limits,
        start: str | None = None,
        temperature: Any = None,
        optimizer: Written | None = None,
        learning_rate: float | None = None,
        optimizer_options: Mapping[str, Any] | None = None,
        penalty: Written | None = None,
        penalty_options: Mapping[str, Any] | None = None,
        decision: str | None = None,
        compensate_pruned: bool = False,
    ):
        super().__init__(space, limits)
        own = self.defaults
        self.start = _one_of("start", (*GATE_STARTS, FROM_SCORES), start or own["start"])
        self.temperature = Temperature.of(own["temperature"] if temperature is None else temperature)
        word, moves = name_and_options("optimizer", optimizer or own["optimizer"], optimizer_options or {})
        self.optimizer = _one_of("optimizer", ("sgd", "adam"), word)
        self.learning_rate = own["learning_rate"] if learning_rate is None else learning_rate
        same = own.get("optimizer_options", {}) if self.optimizer == own["optimizer"] else {}
        self.optimizer_options = {**same, **moves}
        self.decision = _one_of("decision", DECISIONS, decision or own["decision"])
        self.keeps_limit = self.decision == "projection"
        self.needs_scores, self.compensate_pruned = self.start == FROM_SCORES, compensate_pruned
        if self.needs_scores and compensate_pruned:
            raise ValueError("compensate_pruned is for a start that mixes evenly: use start='zeros' or 'bits'")
        chosen = penalty or ("linear" if self.limits[0].amount is None else own["penalty"])
        name, how = name_and_options("penalty", chosen, penalty_options or {})
        self._penalties = [PENALTIES.make(name, target, options=how) for target in self._targets()]

    def prepare(self, model: nn.Module, scores: Scores | None = None) -> None:
        """Set logits and temperature; raises ValueError without open gates, or without scores or budget where the start
        is made of them, and BudgetError where nothing keeps the limits that the decision has to."""
        gates = open_gates(self.space, model)
        if self.decision == "projection":
            check_limits(self.space, self.limits)
        logits = start_logits(self.start, self.space, self.limits, scores)
        set_temperatures([*gates.values()], self.temperature.start)
        set_plane_temperatures(model, gates, self.temperature.start)
        for name, gate in gates.items():
            gate.start(logits[name])
        if self.compensate_pruned:
            compensate_pruned_share(model)

    def gate_optimizer(self) -> tuple[str, dict[str, Any]]:
        return self.optimizer, {"lr": self.learning_rate, **self.optimizer_options}

    def schedule(self, model: nn.Module, progress: Progress) -> None:
        temperature, generator = self.temperature_at(progress), seeded(progress.seed, progress.step)
        gates = open_gates(self.space, model)
        set_temperatures([*gates.values()], temperature)
        set_plane_temperatures(model, gates, temperature)
        for kind, alike in groupby(gates.values(), type):
            kind.redraw_all([*alike], generator)

    def idle(self, progress: Progress) -> int:
        """Steps of the stage before the gates move."""
        return 0

    def moving(self, progress: Progress) -> Progress:
        """Progress of the part of the stage in which the gates move: what temperature and penalty go by."""
        idle = self.idle(progress)
        return replace(progress, step=max(progress.step - idle, 0), steps=max(progress.steps - idle, 1))

    def temperature_at(self, progress: Progress) -> float:
        """The temperature of a step."""
        return self.temperature.at(self.moving(progress))

    def penalty(self, usages: Mapping[str, Usage], progress: Progress) -> Tensor:
        """The penalties of the expected costs. Where one looks at the actual cost, that is the cost of the likeliest
        precisions, which is what argmax would ship."""
        parts = []
        for limit, penalty in zip(self.limits, self._penalties):
            expected, actual = limit.cost.expected(usages), partial(self._decided_cost, limit, usages)
            parts.append(penalty(expected, actual, self.moving(progress)))
        return sum(parts[1:], parts[0])

    def derive(self, model: nn.Module, judge: Judge | None = None) -> tuple[nn.Module, Assignment]:
        limits = self.limits if self.decision == "projection" else ()
        found = likeliest(self.space, reluctances(model), limits)
        emptied = [name for name, one in found.matrices.items() if not any(one.bits)]
        if emptied:
            warnings.warn(
                f"the search leaves nothing of {len(emptied)} matrices, first {emptied[0]!r}: if its gates "
                "hardly moved, search longer, start from scores, or leave 0 out of the bits",
                stacklevel=2,
            )
        return model, found

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """What the gates say, and `gate_metrics`."""
        own = next(iter(open_gates(self.space, model).values())).metrics()
        return {**own, **gate_metrics(self.space, self.limits, model)}

    def _targets(self) -> list[Target]:
        specs = self.space.weights
        highest = {
            name: MatrixAssignment(spec.bits or (spec.candidates[-1],) * spec.layout.count, nested=spec.nested)
            for name, spec in specs.items()
        }
        groups = sum(one.groups for one in self.space.open_choices.values())
        return [
            Target(
                limit.amount,
                limit.cost.of(Assignment(highest)),
                groups,
                self.learning_rate,
                self.optimizer == "adam",
                len(self.limits) == 1,
            )
            for limit in self.limits
        ]

    def _decided_cost(self, limit: Limit, usages: Mapping[str, Usage]) -> float:
        with torch.no_grad():
            return float(limit.cost.expected(decided(self.space, usages)))


class WarmGateSearch(GateSearch):
    """A gate search whose gates stand still for the first share of the stage.

    Args:
        warmup: that share, at least 0 and below 1.
        options: of `GateSearch`.

    Raises:
        ValueError: for a share outside it.
    """

    def __init__(self, space: PrecisionSpace, limits: Limits, warmup: float = 0.0, **options):
        super().__init__(space, limits, **options)
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup is a share of the stage, at least 0 and below 1; got {warmup}")
        self.warmup = warmup

    def idle(self, progress: Progress) -> int:
        return ceil(self.warmup * progress.steps)


def _one_of(field: str, known: tuple[str, ...], value: str) -> str:
    if value not in known:
        raise ValueError(f"{field} must be one of {', '.join(known)}; got {value!r}")
    return value
