"""A published system as data: one choice for each slot."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .parts import Part, Written, by_name, name_and_options, plain
from .registry import Registry

STAGE_STARTS = ("previous", "loaded", "pretrained", "random")


@dataclass(frozen=True)
class StageSpec:
    """One named phase of training.

    Attributes:
        name: of its folder.
        share: of the run's epochs or steps, relative to the other stages' shares.
        objectives: registered name to options, or a list of parts; the loss is their weighted sum.
        strategy: registered search strategy, a part; None where every precision is decided.
        strategy_options: its keyword arguments, where the part has none; a part's are found here too.
        start: where the float weights come from: `"previous"` (the stage before), `"loaded"` (as the user gave them),
            `"pretrained"` (the checkpoint that `MPQTrainingArguments.pretrained` names), or `"random"`.
        arguments: fields of `TrainingArguments` that this stage sets for itself.
        schedules: registered schedule to options, or a list of parts: what changes by time and is no search, in order.
        trainable: roles (`"weights"`, `"steps"`, `"ranges"`, `"offsets"`, `"gates"`) or patterns searched in names of
            parameters; those that none of them fits stand still. None trains all.
        rounding: whether weights and activations are rounded; without it the stage is a float one, under its masks.
        reshape: registered reshape, a part: what is done to the shape of the float model before the stage, such as
            `Part("widen", rows=1.5)`; None leaves it.
        reshape_options: as `strategy_options`.
    """

    name: str
    share: float = 1.0
    objectives: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"task": {}})
    strategy: Written | None = None
    strategy_options: Mapping[str, Any] = field(default_factory=dict)
    start: str = "previous"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    schedules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    trainable: tuple[str, ...] | None = None
    rounding: bool = True
    reshape: Written | None = None
    reshape_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        _separate(self, ("strategy", "reshape"))
        for slot in ("objectives", "schedules"):
            object.__setattr__(self, slot, by_name(slot, getattr(self, slot)))
        if self.start not in STAGE_STARTS:
            raise ValueError(f"a stage starts from one of {', '.join(STAGE_STARTS)}; got {self.start!r}")
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
        summary: what it does, in two or three sentences, for its page.
        config: fields of `MPQConfig` that differ from its defaults.
        scorer, allocator, rounding: parts; what is kept is the name.
        scorer_options, allocator_options, rounding_options: keyword arguments of each, where the part has none; those
            of a part are found here too.
        outliers: part, a rule against outliers of activations; None leaves it to the bits of the activations.
        bias_correction: whether biases are corrected after rounding.
        stages: of training, in order. A method with an allocator whose stages do not search is given its bits by scorer
            and allocator first.
        retraining_free: whether what the last stage searched is the result as it is, and nothing is trained afterwards.
        finalists: how many of the allocator's best assignments are trained shortly and compared before the first stage;
            of a method whose stages do not search.
        selects: whether what the search found is compared with the training-free assignment, and the better goes on.
        deviations: what is reconstructed or done in another way than in the paper, in words.
    """

    name: str
    paper: str
    summary: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    scorer: Written | None = None
    scorer_options: Mapping[str, Any] = field(default_factory=dict)
    allocator: Written | None = None
    allocator_options: Mapping[str, Any] = field(default_factory=dict)
    rounding: Written | None = None
    rounding_options: Mapping[str, Any] = field(default_factory=dict)
    outliers: Written | None = None
    bias_correction: bool = False
    stages: tuple[StageSpec, ...] = ()
    retraining_free: bool = False
    finalists: int = 1
    selects: bool = False
    deviations: tuple[str, ...] = ()

    def __post_init__(self):
        _separate(self, ("scorer", "allocator", "rounding"))
        if self.finalists < 1 or (self.finalists > 1 and self.selects):
            raise ValueError(
                f"finalists are 1 or more, and of methods that do not search (selects=False); got {self.finalists}"
            )
        if self.outliers is not None:
            object.__setattr__(self, "outliers", Part.of(self.outliers, what="outliers"))


def _separate(spec: StageSpec | MethodSpec, slots: tuple[str, ...]) -> None:
    """Keep the name and the options of each part, which may have parts of its own, in two fields."""
    for slot in slots:
        name, options = getattr(spec, slot), getattr(spec, f"{slot}_options")
        if name is not None:
            name, options = name_and_options(slot, name, options)
        object.__setattr__(spec, slot, name)
        object.__setattr__(spec, f"{slot}_options", plain(options))


METHODS: Registry[MethodSpec] = Registry("method", home="hf_mpq.methods")
