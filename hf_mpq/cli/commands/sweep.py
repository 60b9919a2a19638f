"""`hf-mpq sweep`: many runs, one row of each."""

from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import options
from ..console import print_json, say, screen
from ..errors import NO, UserError, one_line
from ..spaces import space_of
from ..typed import check_method, check_models, check_word, checked_budgets

if TYPE_CHECKING:
    from ...sweep import Plan, Sweep

MEASURED = "score, megabytes, milliseconds, code_bits, kl, agreement, unseen_kl or unseen_agreement"


def sweep(
    out: Annotated[Path, typer.Option(help="Folder of the sweep; where it has one, the sweep goes on.")],
    model: Annotated[
        str | None, typer.Option(help="Fine-tuned float model: a folder or a name; {task} is the task's name.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Task, such as sst2; may be repeated.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Method that is trained; may be repeated.")] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="Such as 2.5bits, 12MB, or 12MB+8ms for both; may be repeated.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="May be repeated.")] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUES of a field of MPQConfig or of MPQTrainingArguments, such as learning_rate=[5e-5,1e-4], "
            "bits=[[2,4],[2,3,4,8]] or, with --trials, learning_rate={low: 1e-5, high: 1e-3, log: true}; may be "
            "repeated."
        ),
    ] = None,
    space: Annotated[Path | None, typer.Option(help="YAML file of such lines.")] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="An open search: so many points of the space for each task, not all.")
    ] = None,
    objective: Annotated[
        list[str] | None, typer.Option(help=f"{MEASURED}; may be repeated. Default: the first three.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Of all stages of a run together; default: 3.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Default: 1e-4.")] = None,
    finetune_epochs: Annotated[
        float | None, typer.Option(min=0, help="Fine-tune the model for each task first, so long.")
    ] = None,
    train_rows: Annotated[int | None, typer.Option(min=1, help="Use so many rows of the training set.")] = None,
    eval_rows: options.EvalRows = None,
    data_dir: options.DataDir = None,
    max_length: Annotated[int | None, typer.Option(min=2, help="Tokens after which inputs are cut.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes at once.")] = 1,
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Run on a Ray cluster, as many at once as it has room for: that of RAY_ADDRESS."),
    ] = False,
    ray_address: Annotated[str | None, typer.Option(help="Another cluster, such as auto or host:6379.")] = None,
    cpus: Annotated[float, typer.Option(min=0, help="With --ray: CPUs that a run takes.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="With --ray: GPUs that a run takes.")] = 0,
    retry: Annotated[bool, typer.Option("--retry", help="Run again what failed.")] = False,
    table: Annotated[bool, typer.Option("--table", help="Run nothing: the table and the picture so far.")] = False,
    missing: Annotated[bool, typer.Option("--missing", help="Run nothing: list what has no row yet.")] = False,
    json: options.Json = False,
) -> None:
    """Train and measure tasks x methods x budgets x seeds, or search a space; one row in --out/results.jsonl for each run.

    What has a row is not run again: the same command, or `hf-mpq sweep --out DIR` alone, goes on after an interruption,
    and any number of processes may work in one folder.

    [bold]Examples[/bold]

      hf-mpq sweep --out grid --model my-fine-tuned-bert --task sst2 --method mpq --method uniform --budget 3bits --seed 0 --seed 1
      hf-mpq sweep --out open --model my-fine-tuned-bert --task sst2 --trials 40 --vary 'budget=[2bits, 3bits]' --vary 'learning_rate={low: 3e-5, high: 3e-4, log: true}'
      hf-mpq sweep --out grid --table
      hf-mpq sweep --out grid --missing

    [bold]Exit codes[/bold]: 0 done; 1 some runs failed, or --missing lists some; 2 wrong arguments or files; 130 interrupted.
    """  # noqa: E501
    if table and missing:
        raise UserError("give either --table or --missing, not both")
    if ray and workers > 1:
        raise UserError("give either --ray or --workers, not both: a cluster runs as many at once as it has room for")
    for word in task or ():
        check_word("task", word)
    for word in method or ():
        check_method(word)
    for word in budget or ():
        checked_budgets([word])
    for option, number in (("--epochs", epochs), ("--learning-rate", learning_rate)):
        if number is not None and not 0 < number < inf:
            raise UserError(f"{option} is a number above 0; got {number}")
    _check_model(model, task or ())
    given = {
        "model": model,
        "tasks": tuple(task) if task else None,
        "trials": trials,
        "objectives": tuple(objective) if objective else None,
        "data_dir": None if data_dir is None else str(data_dir),
        "finetune_epochs": finetune_epochs,
        "train_rows": train_rows,
        "eval_rows": eval_rows,
        "max_length": max_length,
    }
    named = {
        "method": method,
        "budget": budget,
        "seed": seed,
        "num_train_epochs": epochs,
        "learning_rate": learning_rate,
    }
    asked = space_of(space, vary or (), {name: value for name, value in named.items() if value is not None})
    found = _sweep(out, {name: value for name, value in given.items() if value is not None}, asked)
    if missing:
        _list(found, json)
        return
    if ray and not table:
        from ...sweep.cluster import run_on_ray

        run_on_ray(found, ray_address, cpus, gpus, retry)
    elif not table:
        _check_data(found.plan)
        _run(found, workers, retry)
    _show(found, json)
    failed = [] if table else [one for one in found.missing() if one["state"] == "failed"]
    if failed:
        say(f"{len(failed)} run(s) failed: `hf-mpq sweep --out {out} --missing` says why, --retry runs them again")
        raise typer.Exit(NO)


def _sweep(out: Path, given: Mapping[str, Any], space: Mapping[str, Any]) -> "Sweep":
    """The folder's sweep, which must be the one that was asked for, or a new one."""
    from ..._extras import require

    require("sweep", "hf-mpq sweep")
    from ...sweep import Plan, Sweep
    from ...sweep.plan import FILE

    if not (out / FILE).exists() and not {"model", "tasks"} <= given.keys():
        raise UserError(f"{out} has no sweep: say what it is to run, at least --model and --task")
    if not given and not space:
        return Sweep(out)
    return Sweep(out, _asked(Plan.load(out) if (out / FILE).exists() else None, given, space))


def _asked(known: "Plan | None", given: Mapping[str, Any], space: Mapping[str, Any]) -> "Plan":
    """What was asked for, with what the folder's plan says besides."""
    from dataclasses import replace

    from ...sweep import Plan

    if known is None:
        return Plan(**given, space=space)
    return replace(known, **given, **({"space": {**known.space, **space}} if space else {}))


def _check_model(model: str | None, tasks: Sequence[str]) -> None:
    """Raise UserError where the model that was typed is not there, or not that of a task."""
    if model is not None and (tasks or "{task}" not in model):  # the tasks may stand in the folder's plan
        check_models(*dict.fromkeys(model.replace("{task}", task) for task in tasks or ("",)))


def _check_data(plan: "Plan") -> None:
    """Raise UserError where a folder of data lacks a task, before anything runs."""
    from ...tasks import get_task

    for name in plan.tasks if plan.data_dir is not None else ():
        try:
            get_task(name).load(plan.data_dir)
        except OSError as error:
            raise UserError(one_line(error).replace("data_dir=", "--data-dir")) from error


def _run(found: "Sweep", workers: int, retry: bool) -> None:
    from ...sweep.workers import run_in_processes

    if workers > 1:
        run_in_processes(found, workers, retry)
    else:
        found.run(retry)


def _show(found: "Sweep", json: bool) -> None:
    text = found.report()
    if json:
        print_json(found.rows)
        return
    screen(soft_wrap=True).print(text, markup=False)
    left = len(found.missing())
    say(f"{len(found.rows)} rows in {found.folder / 'results.jsonl'}" + (f"; {left} to go" if left else ""))


def _list(found: "Sweep", json: bool) -> None:
    """What has no row; the exit code is 1 where there is any."""
    left = found.missing()
    if json:
        print_json(left)
    else:
        for one in left:
            words = one["name"] or f"{one['task']}, still to be chosen"
            screen(soft_wrap=True).print(
                f"{one['state']}  {words}" + (f"  ({one['error']})" if one["error"] else ""), markup=False
            )
    if left:
        raise typer.Exit(NO)
