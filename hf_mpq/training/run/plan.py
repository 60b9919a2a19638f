"""The stages of a run: the method's, with the user's changes."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import SchedulerType
from transformers.training_args import OptimizerNames

from ...core import METHODS, MethodSpec, StageSpec, by_name, name_and_options
from ...core.inputs import LABELS
from ...nn.construction import takes_config_alone
from ...nn.widening import RESHAPES
from ...search.schedules import SCHEDULES
from ...search.strategies import STRATEGIES
from ...search.strategies.penalties import PENALTIES
from ..arguments import REINITS, MPQTrainingArguments, examples_per_step
from ..objectives import OBJECTIVES

DEFAULT_OPEN, DEFAULT_FIXED, DEFAULT_NESTED = "mpq", "uniform", "vertical"


def _whole(value: Any) -> int:
    if float(value) != int(float(value)):
        raise ValueError("not a whole number")
    return int(float(value))


def _steps(value: Any) -> int | float:
    """So many steps, or below 1 a share of the stage's."""
    return float(value) if float(value) < 1 else _whole(value)


CHANGEABLE: Mapping[str, Callable[[Any], Any]] = {
    "learning_rate": float,
    "scale_learning_rate": float,
    "lr_scheduler_type": SchedulerType,
    "lr_scheduler_kwargs": dict,
    "warmup_steps": _steps,
    "optim": OptimizerNames,
    "optim_args": str,
    "weight_decay": float,
    "adam_beta1": float,
    "adam_beta2": float,
    "adam_epsilon": float,
    "max_grad_norm": float,
    "num_train_epochs": float,
    "max_steps": _whole,
    "per_device_train_batch_size": _whole,
    "gradient_accumulation_steps": _whole,
    "logging_steps": _steps,
    "eval_steps": _steps,
    "save_steps": _steps,
}
"""Arguments that a stage may set for itself, with what makes their type of what YAML or JSON gives."""


def method_of(config: Any) -> MethodSpec:
    """The config's method; without one the default search where precisions are open, training of all precisions at once
    where they are nested, else plain training."""
    if config.method is not None:
        return METHODS[config.method]
    if config.nested and not config.searches_inputs:
        return METHODS[DEFAULT_NESTED]
    decided = config.gate_name == "fixed" and not config.searches_inputs
    return METHODS[DEFAULT_FIXED if decided else DEFAULT_OPEN]


def plan_of(method: MethodSpec, args: MPQTrainingArguments, searching: bool) -> list[StageSpec]:
    """The stages in order; those that search are left out where nothing is open.

    Raises:
        ValueError: when the method has no stages, or only searches where nothing is open; when a change names a stage
            or field that is not there, or an argument that is of the whole run.
    """
    if not method.stages:
        raise ValueError(f"method {method.name!r} needs no training: hf_mpq.compress(model, method={method.name!r})")
    changes = dict(args.stages or {})
    unknown = sorted(set(changes) - {stage.name for stage in method.stages})
    if unknown:
        names = ", ".join(stage.name for stage in method.stages)
        raise ValueError(f"stages {unknown} are not in method {method.name!r}, which has: {names}")
    plan = [_changed(stage, changes.get(stage.name, {}), args) for stage in method.stages]
    plan = [stage for stage in plan if searching or not decides(stage) or shapes(stage)]
    if not plan:
        raise ValueError(
            f"method {method.name!r} only searches, and every precision is decided already: give several, such as "
            "bits=(2, 4, 8), or train with method='uniform'"
        )
    return plan


def _changed(stage: StageSpec, changes: Mapping[str, Any], args: MPQTrainingArguments) -> StageSpec:
    known = [one.name for one in fields(StageSpec) if one.name != "name"]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise ValueError(f"stage {stage.name!r} has no {unknown}; what can be changed: {', '.join(known)}")
    stage = replace(stage, **_merged(stage, changes))
    _check_parts(stage)
    if args.reinit is not None and stage.start == "loaded":
        stage = replace(stage, start=REINITS[args.reinit])
    return replace(stage, arguments=_typed(stage))


def _merged(stage: StageSpec, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes: objectives and schedules that are given are all that there are, arguments go on top of the stage's
    own; another strategy, or one with options, has only its own."""
    merged = dict(changes)
    for slot in ("strategy", "reshape"):
        merged |= _merged_part(stage, slot, changes)
    if "arguments" in changes:
        merged["arguments"] = {**stage.arguments, **changes["arguments"]}
    if "schedules" in changes:
        merged["schedules"] = by_name("schedules", changes["schedules"])
    return merged


def _merged_part(stage: StageSpec, slot: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Name and options of a part of which something is changed."""
    before, given = getattr(stage, f"{slot}_options"), changes.get(f"{slot}_options") or {}
    if changes.get(slot) is not None:
        name, own = name_and_options(slot, changes[slot], given)
        if name == getattr(stage, slot) and isinstance(changes[slot], str):
            own = {**before, **own}
        return {slot: name, f"{slot}_options": own}
    return {f"{slot}_options": {**before, **given}} if f"{slot}_options" in changes else {}


def _check_parts(stage: StageSpec) -> None:
    """Raise ValueError where a name or an option in a stage is unknown."""
    for registry, named in ((OBJECTIVES, stage.objectives), (SCHEDULES, stage.schedules)):
        for name, options in named.items():
            registry.check_options(name, options)
    if stage.reshape is not None:
        RESHAPES.check_options(stage.reshape, stage.reshape_options)
    if stage.strategy is None:
        return
    STRATEGIES.check_options(stage.strategy, stage.strategy_options)
    given = stage.strategy_options
    if given.get("penalty") is not None:
        PENALTIES.check_options(*name_and_options("penalty", given["penalty"], given.get("penalty_options") or {}))


def _typed(stage: StageSpec) -> dict[str, Any]:
    """A stage's own arguments, each of its type."""
    wrong = sorted(set(stage.arguments) - set(CHANGEABLE))
    if wrong:
        raise ValueError(
            f"stage {stage.name!r} sets {wrong}; what a stage can set: {', '.join(CHANGEABLE)}; all "
            "else is of the whole run"
        )
    typed = {}
    for name, value in stage.arguments.items():
        try:
            typed[name] = CHANGEABLE[name](value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"stage {stage.name!r}: {name} cannot be {value!r} ({error})") from error
    return typed


def decides(stage: StageSpec) -> bool:
    """Whether a stage searches precisions, or the shape."""
    return shapes(stage) or (stage.strategy is not None and STRATEGIES[stage.strategy].searches)


def shapes(stage: StageSpec) -> bool:
    """Whether a stage decides the shape of the model."""
    return stage.strategy is not None and STRATEGIES[stage.strategy].shapes


def selects_before(plan: list[StageSpec]) -> int:
    """Number of the first stage whose precisions a search before it decided; 0 where there is none."""
    pairs = enumerate(pairwise(plan), 2)
    return next((number for number, (before, stage) in pairs if decides(before) and not decides(stage)), 0)


def shares(plan: list[StageSpec], args: MPQTrainingArguments) -> list[dict[str, float]]:
    """`num_train_epochs` or `max_steps` of each stage; together those of the run."""
    total = sum(stage.share for stage in plan)
    if args.max_steps > 0:
        ends = [round(args.max_steps * sum(one.share for one in plan[: k + 1]) / total) for k in range(len(plan))]
        return [{"max_steps": max(end - start, 1)} for start, end in zip([0, *ends], ends)]
    return [{"num_train_epochs": args.num_train_epochs * stage.share / total} for stage in plan]


def stage_length(plan: list[StageSpec], args: MPQTrainingArguments, number: int) -> dict[str, float]:
    """`num_train_epochs` or `max_steps` (-1: not this one) of a stage, from 1: its own, else its share of the run's."""
    given = plan[number - 1].arguments
    own = {name: given[name] for name in ("max_steps", "num_train_epochs") if given.get(name, 0) > 0}
    return {"max_steps": -1, **(own or shares(plan, args)[number - 1])}


def check_rows(rows: Any, plan: list[StageSpec], args: MPQTrainingArguments) -> None:
    """Raise ValueError where the stages cannot be trained on these rows: there are none, or epochs have no end."""
    if rows is None:
        raise ValueError("train() needs rows to train on: give the trainer a train_dataset")
    lengths = {stage.name: stage_length(plan, args, number) for number, stage in enumerate(plan, 1)}
    endless = [name for name, length in lengths.items() if length["max_steps"] <= 0]
    if endless and not hasattr(rows, "__len__"):
        raise ValueError(
            f"a training set without a length has no epochs: set max_steps in stages {endless}, not num_train_epochs"
        )


def first_labels(rows: Any) -> Any:
    """Labels of the first row; None for a stream, whose rows come once, and where there are none."""
    listed = hasattr(rows, "__getitem__") and hasattr(rows, "__len__")
    if not listed or not len(rows) or not isinstance(rows[0], Mapping):
        return None
    return next((rows[0][name] for name in LABELS if rows[0].get(name) is not None), None)


def check_remade(plan: list[StageSpec], kind: type) -> None:
    """Raise ValueError when a stage starts from new weights, and the model's class needs more than a config."""
    anew = [stage.name for stage in plan if stage.start in ("pretrained", "random")]
    if anew and not takes_config_alone(kind):
        raise ValueError(
            f"stage {anew[0]!r} starts from new weights, and {kind.__name__} cannot be made from its "
            "config alone: leave reinit unset, or give its other arguments defaults"
        )


def stage_arguments(
    args: MPQTrainingArguments, changes: Mapping[str, Any], folder: str | Path, seed: int, label_names: list[str]
) -> MPQTrainingArguments:
    """The run's arguments with a stage's own; nothing is pushed from inside a stage.

    Args:
        changes: fields of `TrainingArguments`.
        folder: of the stage.
        seed: of the stage.
        label_names: columns that are labels to the student, where the run does not name them.
    """
    fixed = {
        "output_dir": str(folder),
        "seed": seed,
        "push_to_hub": False,
        "label_names": args.label_names or label_names,
    }
    return _with(args, {**changes, **fixed})


def _with(args: MPQTrainingArguments, changes: Mapping[str, Any]) -> MPQTrainingArguments:
    own = copy.copy(args)
    for name, value in changes.items():
        before = getattr(own, name)
        setattr(own, name, type(before)(value) if isinstance(before, Enum) else value)
    return own


def stage_folder(number: int, stage: StageSpec) -> str:
    """Name of a stage's folder in its run; stages count from 1."""
    return f"{number}-{stage.name}"


def trial_steps(plan: list[StageSpec], args: MPQTrainingArguments, number: int, rows: int | None) -> int:
    """Steps of the short training that compares assignments: as the user says, or a tenth of the stage's own.

    Args:
        number: of the stage, from 1.
        rows: of the training set; None where it has no length, and steps are all that there is to count.
    """
    if args.selection_steps:
        return args.selection_steps
    own, unit = stage_length(plan, args, number), examples_per_step(_with(args, plan[number - 1].arguments))
    return max(round(own["max_steps"] if own["max_steps"] > 0 else own["num_train_epochs"] * rows / unit) // 10, 1)
