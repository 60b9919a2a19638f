"""A published system as data: one choice for each slot."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .registry import Registry

STARTS = ("previous", "loaded", "pretrained", "random")


@dataclass(frozen=True)
class StageSpec:
    """One named phase of training.

    Attributes:
        name: of its folder.
        share: of the run's epochs or steps, relative to the other stages' shares.
        objectives: registered name to options; the loss is their weighted sum.
        strategy: registered search strategy; None where every precision is decided.
        strategy_options: its keyword arguments.
        start: where the float weights come from: `"previous"` (the stage before), `"loaded"` (as the user gave them),
            `"pretrained"` (the checkpoint that `MPQTrainingArguments.pretrained` names), or `"random"`.
        arguments: fields of `TrainingArguments` that this stage sets for itself.
        schedules: registered schedule to options: what changes by time and is no search, in this order.
        trainable: roles (`"weights"`, `"steps"`, `"offsets"`, `"gates"`) or patterns searched in names of parameters;
            those that none of them fits stand still. None trains all.
        rounding: whether weights and activations are rounded; without it the stage is a float one, under its masks.
    """

    name: str
    share: float = 1.0
    objectives: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"task": {}})
    strategy: str | None = None
    strategy_options: Mapping[str, Any] = field(default_factory=dict)
    start: str = "previous"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    schedules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    trainable: tuple[str, ...] | None = None
    rounding: bool = True

    def __post_init__(self):
        if self.start not in STARTS:
            raise ValueError(f"a stage starts from one of {', '.join(STARTS)}; got {self.start!r}")
        if self.share <= 0:
            raise ValueError(f"the share of stage {self.name!r} must be above zero, got {self.share}")
        if isinstance(self.trainable, str):
            raise ValueError(f"trainable is a list of roles and patterns: give [{self.trainable!r}]")
        if self.strategy is not None and not self.rounding:
            raise ValueError(f"stage {self.name!r} searches precisions, which needs rounding=True")


@dataclass(frozen=True)
class MethodSpec:
    """One choice for each slot; what is left empty is the default of the slot.

    Attributes:
        name: the registered name.
        paper: authors, venue and year.
        config: fields of `MPQConfig` that differ from its defaults.
        scorer, allocator, rounding: registered names.
        scorer_options, allocator_options, rounding_options: keyword arguments of each.
        outliers: registered rule against outliers of activations; None for none.
        bias_correction: whether biases are corrected after rounding.
        stages: of training, in order. A method with an allocator whose stages do not search is given its bits by scorer
            and allocator first.
        selects: whether what the search found is compared with the training-free assignment, and the better goes on.
        deviations: what is reconstructed or done in another way than in the paper, in words.
    """

    name: str
    paper: str
    config: Mapping[str, Any] = field(default_factory=dict)
    scorer: str | None = None
    scorer_options: Mapping[str, Any] = field(default_factory=dict)
    allocator: str | None = None
    allocator_options: Mapping[str, Any] = field(default_factory=dict)
    rounding: str | None = None
    rounding_options: Mapping[str, Any] = field(default_factory=dict)
    outliers: str | None = None
    bias_correction: bool = False
    stages: tuple[StageSpec, ...] = ()
    selects: bool = False
    deviations: tuple[str, ...] = ()


METHODS: Registry[MethodSpec] = Registry("method", home="hf_mpq.methods")
