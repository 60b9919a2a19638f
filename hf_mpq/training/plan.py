"""The stages of a run: the method's, with the user's changes."""

import copy
from collections.abc import Mapping
from dataclasses import fields, replace
from enum import Enum
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ..core import METHODS, MethodSpec, StageSpec
from .arguments import REINITS, MPQTrainingArguments, examples_per_step

DEFAULT_OPEN, DEFAULT_FIXED = "mpq", "uniform"


def method_of(config: Any) -> MethodSpec:
    """The config's method; without one the default search where precisions are open, else plain training."""
    if config.method is not None:
        return METHODS[config.method]
    return METHODS[DEFAULT_FIXED if config.gate_name == "fixed" else DEFAULT_OPEN]


def plan_of(method: MethodSpec, args: MPQTrainingArguments, searching: bool) -> list[StageSpec]:
    """The stages in order; those that search are left out where nothing is open.

    Raises:
        ValueError: when the method has no stages, or a change names a stage or field that is not there.
    """
    if not method.stages:
        raise ValueError(f"method {method.name!r} needs no training: hf_mpq.compress(model, method={method.name!r})")
    changes = dict(args.stages or {})
    unknown = sorted(set(changes) - {stage.name for stage in method.stages})
    if unknown:
        names = ", ".join(stage.name for stage in method.stages)
        raise ValueError(f"stages {unknown} are not in method {method.name!r}, which has: {names}")
    plan = [_changed(stage, changes.get(stage.name, {}), args) for stage in method.stages]
    return [stage for stage in plan if searching or stage.strategy is None]


def _changed(stage: StageSpec, changes: Mapping[str, Any], args: MPQTrainingArguments) -> StageSpec:
    known = [one.name for one in fields(StageSpec) if one.name != "name"]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise ValueError(f"stage {stage.name!r} has no {unknown}; what can be changed: {', '.join(known)}")
    merged = {key: {**getattr(stage, key), **value} if key in ("strategy_options", "arguments") else value
              for key, value in changes.items()}  # fmt: skip
    stage = replace(stage, **merged)
    if args.reinit is not None and stage.start == "loaded":
        stage = replace(stage, start=REINITS[args.reinit])
    wrong = sorted(set(stage.arguments) - {one.name for one in fields(TrainingArguments)})
    if wrong:
        raise ValueError(f"stage {stage.name!r} sets {wrong}, which TrainingArguments does not have")
    return stage


def shares(plan: list[StageSpec], args: MPQTrainingArguments) -> list[dict[str, float]]:
    """`num_train_epochs` or `max_steps` of each stage; together those of the run."""
    total = sum(stage.share for stage in plan)
    if args.max_steps > 0:
        ends = [round(args.max_steps * sum(one.share for one in plan[: k + 1]) / total) for k in range(len(plan))]
        return [{"max_steps": max(end - start, 1)} for start, end in zip([0, *ends], ends)]
    return [{"num_train_epochs": args.num_train_epochs * stage.share / total} for stage in plan]


def stage_arguments(args: MPQTrainingArguments, changes: Mapping[str, Any], folder: str | Path, seed: int,
                    label_names: list[str]) -> MPQTrainingArguments:  # fmt: skip
    """The run's arguments with a stage's own; nothing is pushed from inside a stage.

    Args:
        changes: fields of `TrainingArguments`.
        folder: of the stage.
        seed: of the stage.
        label_names: columns that are labels to the student, where the run does not name them.
    """
    own = copy.copy(args)
    fixed = {"output_dir": str(folder), "seed": seed, "push_to_hub": False,
             "label_names": args.label_names or label_names}  # fmt: skip
    for name, value in {**changes, **fixed}.items():
        before = getattr(own, name)
        setattr(own, name, type(before)(value) if isinstance(before, Enum) else value)
    return own


def stage_folder(number: int, stage: StageSpec) -> str:
    """Name of a stage's folder in its run; stages count from 1."""
    return f"{number}-{stage.name}"


def trial_steps(plan: list[StageSpec], args: MPQTrainingArguments, number: int, rows: int) -> int:
    """Steps of the short training that compares assignments: as the user says, or a tenth of the stage's own.

    Args:
        number: of the stage, from 1.
        rows: of the training set.
    """
    if args.selection_steps:
        return args.selection_steps
    own, unit = shares(plan, args)[number - 1], examples_per_step(args)
    return max(round(own.get("max_steps") or own["num_train_epochs"] * rows / unit) // 10, 1)
