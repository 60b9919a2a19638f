"""One run of a sweep: quantize, train, pack, measure."""

import math
import shlex
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

from filelock import FileLock
from torch import nn

from ..core import METHODS
from ..plugin import MPQConfig, quantize
from ..report.measures.speed import measure_speed, served
from ..training import MPQTrainer
from ..training.run.digests import digest_of_model
from .arguments import run_arguments
from .axes import word_of
from .origin import origin
from .plan import KEYS, OWN, Plan, Point, split
from .rows import ROWS, Results
from .study import Study

ALL_ROWS = 10**9
CANDIDATES = {"uniform": {"bits": (2, 3, 4, 8)}}
"""What a method chooses among where it has one precision of its own, which every budget above it would get."""


def run_point(plan: Plan, task: str, point: Point, name: str, folder: str | Path) -> dict[str, Any]:
    """Run one point, or go on with it where it was interrupted, and measure what it packed.

    Args:
        name: of the run; `<folder>/runs/<name>` has its checkpoints, and `<folder>/packed/<name>` the packed model
            afterwards.
        folder: of the sweep.

    Returns:
        The row, with its settings, the command that makes it again, and where it comes from.

    Raises:
        ValueError: the float model is another one than that of the task's rows.
        Exception: whatever the run ends in, such as a `BudgetError` where nothing meets the budget.
    """
    folder = Path(folder)
    study, run = study_of(plan, task, folder), folder / "runs" / name
    digest = digest_of_model(study.model())
    for known in Results(folder / ROWS, *KEYS, say=False).rows:
        if known["task"] == task and known.get("float_digest", digest) != digest:
            raise ValueError(
                f"the float model in {study.folder} is not the one that {folder / ROWS} has rows of: sweep it in "
                "another folder"
            )
    trainer = _trainer(study, point, run)
    resumed, start = (run / "stages.json").exists(), perf_counter()
    trainer.train(resume_from_checkpoint=resumed)
    seconds = perf_counter() - start
    given = trainer.assignments([point["budget"]])[0] if _is_searched_last(point) else None
    packed = folder / "packed" / name
    trainer.save_packed(packed, given)
    model = study.task.auto_class.from_pretrained(packed)
    row = {**plan.key(task, point), **study.measures(model, folder / "kl" / f"{name}.npy")}
    if "milliseconds" in plan.objectives:
        row |= _timed(model, study, folder)
    wrong = [one for one in plan.objectives if not math.isfinite(row[one])]
    if wrong:
        raise ValueError(f"{wrong[0]} is {row[wrong[0]]}: the run went astray, perhaps its learning rate is too high")
    return {
        **row,
        "seconds": None if resumed else seconds,
        "float_digest": digest,
        "run": name,
        "point": dict(point),
        "settings": settings_of(plan),
        "command": command_of(plan, task, point),
        **origin(),
    }


def settings_of(plan: Plan) -> dict[str, Any]:
    """What is the same in all rows of a sweep."""
    own = {name: value for name, value in plan.to_dict().items() if name not in ("tasks", "space", "trials")}
    fixed = {name: axis.values[0] for name, axis in plan.axes.items() if name not in (*plan.varied, *OWN)}
    return {**own, **fixed}


def command_of(plan: Plan, task: str, point: Point) -> str:
    """What runs one point alone, to be pasted into a shell."""
    words = ["hf-mpq", "sweep", "--out", "one-run", "--model", plan.model, "--task", task]
    for name, value in point.items():
        words += ["--vary", f"{name}={word_of([value])}"]
    given = {
        "--data-dir": plan.data_dir,
        "--finetune-epochs": plan.finetune_epochs or None,
        "--train-rows": plan.train_rows,
        "--eval-rows": plan.eval_rows,
        "--max-length": plan.max_length,
    }
    for option, value in given.items():
        words += [option, str(value)] if value is not None else []
    for objective in plan.objectives:
        words += ["--objective", objective]
    return shlex.join(words)


def study_of(plan: Plan, task: str, folder: str | Path) -> Study:
    """A task's data and float model, loaded once by a process."""
    return _study(
        task,
        Path(folder) / "float",
        None if plan.data_dir is None else Path(plan.data_dir),
        plan.train_rows or ALL_ROWS,
        plan.finetune_epochs,
        0,
        plan.max_length,
        plan.eval_rows,
        plan.model.replace("{task}", task),
    )


_study = cache(Study)


def _trainer(study: Study, point: Point, run: Path) -> MPQTrainer:
    config, arguments = split(point)
    budget = None if _is_searched_last(point) else point.get("budget")
    candidates = CANDIDATES.get(point["method"], {}) if budget is not None else {}
    model = quantize(study.model(), MPQConfig(method=point["method"], budget=budget, **{**candidates, **config}))
    return MPQTrainer(
        model,
        run_arguments(run, METHODS[point["method"]], **{"learning_rate": 1e-4, **arguments}),
        train_dataset=study.train,
        data_collator=study.task.data_collator(study.tokenizer),
        processing_class=study.tokenizer,
    )


def _is_searched_last(point: Point) -> bool:
    """Whether the budget is met after training: one set of weights serves all budgets."""
    return METHODS[point["method"]].retraining_free and point.get("budget") is not None


def _timed(model: nn.Module, study: Study, folder: Path) -> dict[str, float]:
    """Median milliseconds of one input of `tokens` tokens in the fastest backend; one process of a sweep at a time."""
    tokens = min(study.max_length, getattr(model.config, "max_position_embeddings", study.max_length))
    with FileLock(folder / "timing.lock"):
        ready = served(model)
        return {"milliseconds": measure_speed(ready, 1, tokens, seconds=1.0).milliseconds, "tokens": tokens}
