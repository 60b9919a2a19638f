"""The optimizer of a stage and its schedule: weights, quantization steps and gates each in their own way."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainingArguments

from ...search.schedules import Schedule
from ...search.strategies import GATE_PARAMETERS, QUANTIZER_PARAMETERS, WEIGHTS, SearchStrategy
from ...weights.roles import OFFSETS, PLANES, RANGES, ROLES, STEPS, roles_in
from .joint_optimizer import JointOptimizer
from .relative_adam import RelativeAdam, UnitAdam

_GATE_OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
_GATE_GROUP = "gates"


@dataclass(frozen=True)
class ParameterGroups:
    """The parameters of a stage.

    Attributes:
        weights: name to parameter, of the student and of objectives.
        scales: steps and ranges of learned quantizers, all positive.
        gates: of precision gates.
        offsets: of learned quantizers, each with what gives the size that it is counted in.
        planes: bit planes that weights are sums of, in the same way.
        gate_scales: steps and ranges that belong to precision gates.
        resting: those that the stage does not train.
    """

    weights: Mapping[str, nn.Parameter]
    scales: list[nn.Parameter]
    gates: list[nn.Parameter]
    offsets: list[tuple[nn.Parameter, Callable[[], Tensor]]] = field(default_factory=list)
    planes: list[tuple[nn.Parameter, Callable[[], Tensor]]] = field(default_factory=list)
    gate_scales: list[nn.Parameter] = field(default_factory=list)
    resting: list[nn.Parameter] = field(default_factory=list)

    @classmethod
    def of(cls, module: nn.Module, trainable: Collection[str] | None = None) -> "ParameterGroups":
        """Those of a stage module that have gradients, as the modules that own them declare it.

        Args:
            trainable: roles, or patterns searched in names; None for all.

        Raises:
            ValueError: when a quantizer, gate, mask or source declares no role for what it learns, or a part of
                `trainable` fits no parameter.
        """
        resting = _resting(module.student, trainable)
        still = {id(one) for one in resting}
        declared = {
            id(one.parameter): one
            for one in roles_in(module.student)
            if one.parameter.requires_grad and id(one.parameter) not in still
        }
        of_role = lambda *roles: [one for one in declared.values() if one.role in roles]  # noqa: E731
        scales = of_role(STEPS, RANGES)
        weights = {
            name: one
            for name, one in module.named_parameters()
            if one.requires_grad
            and id(one) not in still
            and (id(one) not in declared or declared[id(one)].role == WEIGHTS)
        }
        in_units = lambda role: [(one.parameter, partial(one.part.unit, one.name)) for one in of_role(role)]  # noqa: E731
        return cls(
            weights,
            [one.parameter for one in scales if one.group == QUANTIZER_PARAMETERS],
            [one.parameter for one in of_role(GATE_PARAMETERS)],
            in_units(OFFSETS),
            in_units(PLANES),
            [one.parameter for one in scales if one.group == GATE_PARAMETERS],
            resting,
        )

    @property
    def every(self) -> list[nn.Parameter]:
        """All that the stage trains."""
        return [one for several in self.by_group.values() for one in several]

    @property
    def by_group(self) -> dict[str, list[nn.Parameter]]:
        """What passes update apart from each other."""
        return {
            WEIGHTS: [*self.weights.values(), *(one for one, _ in self.planes)],
            QUANTIZER_PARAMETERS: [*self.scales, *(one for one, _ in self.offsets)],
            GATE_PARAMETERS: [*self.gates, *self.gate_scales],
        }

    def held(self, updates: frozenset[str]) -> list[nn.Parameter]:
        """Those that a pass with these `updates` leaves as they are."""
        still = [one for name, several in self.by_group.items() if name not in updates for one in several]
        return [*self.resting, *still]


def _resting(student: nn.Module, trainable: Collection[str] | None) -> list[nn.Parameter]:
    """Parameters of the student that a stage leaves as they are, of those that have gradients."""
    if trainable is None:
        return []
    roles = {id(one.parameter): one.role for one in roles_in(student)}
    named = [(name, one) for name, one in student.named_parameters() if one.requires_grad]
    fits = {
        word: [one for name, one in named if roles.get(id(one), WEIGHTS) == word or re.search(word, name)]
        for word in trainable
    }
    nothing = [word for word, found in fits.items() if not found]
    if nothing:
        raise ValueError(
            f"trainable={nothing[0]!r} fits no parameter: name a role ({', '.join(ROLES)}) or a part of a "
            f"parameter's name, such as {named[0][0] if named else 'classifier'!r}"
        )
    trained = {id(one) for found in fits.values() for one in found}
    return [one for _, one in named if id(one) not in trained]


def stage_optimizer(
    groups: ParameterGroups,
    strategy: SearchStrategy | None,
    weights: tuple[type[Optimizer], Mapping[str, Any]],
    decayed: set[str],
    weight_decay: float,
    scale_learning_rate: float,
) -> JointOptimizer:
    """One optimizer of all parameters.

    Args:
        weights: class of the weights' optimizer, and its keyword arguments with `lr`.
        decayed: names of the weights that decay.
        scale_learning_rate: largest share by which a quantization step changes in a training step, an offset of the
            range that it shifts, and a bit plane of its start.
    """
    kind, options = weights
    parts: dict[str, Optimizer] = {
        WEIGHTS: kind(
            [
                {
                    "params": [one for name, one in groups.weights.items() if name in decayed],
                    "weight_decay": weight_decay,
                },
                {"params": [one for name, one in groups.weights.items() if name not in decayed], "weight_decay": 0.0},
            ],
            **options,
        )
    }
    if groups.scales:
        parts["scales"] = RelativeAdam(groups.scales, scale_learning_rate)
    for name, several in (("offsets", groups.offsets), ("planes", groups.planes)):
        if several:
            parts[name] = UnitAdam(several, scale_learning_rate)
    if groups.gates and strategy is not None:
        name, options = strategy.gate_optimizer()
        parts[GATE_PARAMETERS] = _GATE_OPTIMIZERS[name](
            [{"params": groups.gates, "group": _GATE_GROUP}], foreach=True, **options
        )
    if groups.gate_scales and strategy is not None:
        _, options = strategy.gate_optimizer()
        own = {name: options[name] for name in ("lr", "betas") if name in options}
        parts["gate scales"] = RelativeAdam([{"params": groups.gate_scales, "group": _GATE_GROUP}], **own)
    return JointOptimizer(parts)


def scheduled_rate(
    schedules: Mapping[str, Schedule], optimizer: Optimizer, steps: int, args: TrainingArguments
) -> LRScheduler | None:
    """The learning rate of a stage, where one of its schedules says it; raises ValueError where several do."""
    warmup = args.get_warmup_steps(steps)
    names = [name for name, one in schedules.items() if one.rate(0, steps, warmup) is not None]
    if len(names) > 1:
        raise ValueError(f"{' and '.join(names)} both say the learning rate: leave it to one of them")
    if not names:
        return None
    return LambdaLR(optimizer, lambda step: schedules[names[0]].rate(step, steps, warmup))


def hold_gate_rates(scheduler: LRScheduler, rate: float | None = None) -> None:
    """Take the gates out of a schedule: their learning rate stays the strategy's, or becomes `rate`."""
    if not isinstance(scheduler, LambdaLR):
        return
    for place, group in enumerate(scheduler.optimizer.param_groups):
        if group.get("group") == _GATE_GROUP:
            scheduler.lr_lambdas[place] = _constant
            if rate is not None:
                scheduler.base_lrs[place] = group["initial_lr"] = rate
            group["lr"] = scheduler.base_lrs[place]


def _constant(step: int) -> float:
    return 1.0
