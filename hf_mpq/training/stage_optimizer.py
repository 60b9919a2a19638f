"""The optimizer of a stage and its schedule: weights, quantization steps and gates each in their own way."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from ..nn.walk import matrices
from ..search.strategies import GATES, WEIGHTS, SearchStrategy
from .joint_optimizer import JointOptimizer
from .relative_adam import RelativeAdam

_GATE_OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
_GATE_GROUP = "gates"


@dataclass(frozen=True)
class ParameterGroups:
    """The parameters of a stage.

    Attributes:
        weights: name to parameter, of the student and of objectives.
        scales: steps of learned quantizers, all positive.
        gates: of precision gates.
    """

    weights: Mapping[str, nn.Parameter]
    scales: list[nn.Parameter]
    gates: list[nn.Parameter]

    @classmethod
    def of(cls, module: nn.Module) -> "ParameterGroups":
        """Those of a stage module that have gradients."""
        every = {name: one for name, one in module.named_parameters() if one.requires_grad}
        in_gates = {id(one) for _, layer in matrices(module.student) for one in layer.program.gate.parameters()}
        gates = [one for one in every.values() if id(one) in in_gates]
        scales = {name: one for name, one in every.items() if name.endswith(".step")}
        weights = {name: one for name, one in every.items() if id(one) not in in_gates and name not in scales}
        return cls(weights, list(scales.values()), gates)

    def held(self, updates: frozenset[str]) -> list[nn.Parameter]:
        """Those that a pass with these `updates` leaves as they are."""
        weights = [] if WEIGHTS in updates else [*self.weights.values(), *self.scales]
        return weights if GATES in updates else [*weights, *self.gates]


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
        scale_learning_rate: largest share by which a quantization step changes in a training step.
    """
    kind, options = weights
    parts: dict[str, Optimizer] = {WEIGHTS: kind([
        {"params": [one for name, one in groups.weights.items() if name in decayed], "weight_decay": weight_decay},
        {"params": [one for name, one in groups.weights.items() if name not in decayed], "weight_decay": 0.0},
    ], **options)}  # fmt: skip
    if groups.scales:
        parts["scales"] = RelativeAdam(groups.scales, scale_learning_rate)
    if groups.gates and strategy is not None:
        name, options = strategy.gate_optimizer()
        parts[GATES] = _GATE_OPTIMIZERS[name]([{"params": groups.gates, "group": _GATE_GROUP}], **options)
    return JointOptimizer(parts)


def hold_gate_rates(scheduler: LRScheduler) -> None:
    """Take the gates out of a schedule: their learning rate stays the strategy's."""
    if not isinstance(scheduler, LambdaLR):
        return
    for place, group in enumerate(scheduler.optimizer.param_groups):
        if group.get("group") == _GATE_GROUP:
            scheduler.lr_lambdas[place] = _constant
            group["lr"] = scheduler.base_lrs[place]


def _constant(step: int) -> float:
    return 1.0
