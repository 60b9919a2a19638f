"""Methods side by side: the same teacher, data, epochs, learning rate, seeds and budgets for all of them.

    python benchmarks/compare_methods.py --data_dir DATA --tasks sst2 --methods mpq uniform --budgets 2bits 2.5bits
    python benchmarks/compare_methods.py --tasks sst2 --methods mpq uniform --budgets 2bits 2.5bits --table

Every run is a row of `results.jsonl`; what is there is not run again, and an interrupted run goes on where it was. The
tables, the paired intervals and the picture are made of what is there, and name the command of what is not. A report
alone (--table) may have several variants; --against says which row the intervals are against.

A method that is not trained again after its search has one run for all budgets of a seed. --assignments_of trains what
the runs of another method found.

One run of `vertical` is a row at each of its precisions, beside runs at one precision of as many steps; `cut` is its
negative control, a model that was trained at 8 bits and then cut down:

    python benchmarks/compare_methods.py --tasks mrpc --methods vertical uniform cut --against uniform \\
        --budgets 8bits 4bits 3bits 2bits --seeds 0 1 2

--student begins from another checkpoint than the task's float model, which then teaches it: a sparse one for
`prune-ofa`. --time adds milliseconds of each result, for methods that change the shape.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import recipes_folder  # noqa: F401
import torch
from comparison import command, write_report
from served import SERVED, check_budgets, pack_served, served_config
from study import Results, Study
from times import times
from torch import nn

import hf_mpq
from hf_mpq.core import METHODS
from hf_mpq.nn import family_of
from hf_mpq.nn.reshape import sizes_of
from hf_mpq.search.strategies import searches_shapes
from hf_mpq.sweep import origin
from hf_mpq.sweep.arguments import run_arguments

CONFIGS = {
    "mpq": {"bits": [1, 2, 3, 4, 8]},
    "uniform": {"bits": [2, 3, 4, 8]},
}
"""Candidates where they differ from the method's own."""
KEYS = ("task", "method", "variant", "budget", "seed")
CELLS = ("tasks", "methods", "budgets", "seeds", "variant", "table", "against")
"""Arguments that say which rows; all others are their settings."""
FAIR = ("epochs", "learning_rate", "batch_size", "train_rows", "float_epochs", "dev_rows", "selection_examples")
"""Settings that all rows of a task and variant share."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, then report."""
    args, settings = _arguments(argv)
    results = Results(args.out / "results.jsonl", *KEYS)
    for task in args.tasks if not args.table else ():
        _check_alike(results.rows, task, args, settings)
        variant = args.variant[0]
        study = Study(
            task,
            args.models,
            args.data_dir,
            train_rows=args.train_rows,
            dev_rows=args.dev_rows,
            epochs=args.float_epochs,
        )
        _float_row(study, results, args)
        for seed, budget, method in product(args.seeds, args.budgets, args.methods):
            key = dict(zip(KEYS, (task, method, variant, budget, seed)))
            if not results.has(**key):
                results.add(
                    **key, **_run(study, key, args), settings=settings, command=command(key, settings), **origin()
                )
            _remove_done(results, key, args)
    cells = product(args.tasks, args.methods, args.variant, args.budgets, args.seeds)
    write_report(results.rows, [dict(zip(KEYS, cell)) for cell in cells], args.out, settings, args.against)


def _arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """What was given, and the settings among it that are not at their defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=None, help="folder with one folder per task; default: the Hub")
    parser.add_argument("--tasks", nargs="+", default=["sst2"])
    parser.add_argument("--methods", nargs="+", default=["mpq", "uniform"])
    parser.add_argument("--budgets", nargs="+", default=["2.5bits"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=float, default=3.0, help="of all stages together")
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--train_rows", type=int, default=6000)
    parser.add_argument("--float_epochs", type=float, default=3.0, help="of the float model, where it is not there yet")
    parser.add_argument("--dev_rows", type=int, default=None)
    parser.add_argument(
        "--variant", nargs="+", default=[""], help="name of a run with other --config or --stages; several with --table"
    )
    parser.add_argument("--config", type=json.loads, default={}, help='fields of MPQConfig, such as {"bits": [2, 4]}')
    parser.add_argument("--stages", type=json.loads, default={}, help="changes to stages, as in MPQTrainingArguments")
    parser.add_argument("--assignments_of", default="", help="method whose runs' precisions are trained, not searched")
    parser.add_argument(
        "--student", type=Path, default=None, help="float checkpoint to begin from; default: the teacher"
    )
    parser.add_argument("--time", default="", help="batch x tokens, such as 1x128, that results are timed at")
    parser.add_argument("--selection_examples", type=int, default=256, help="0: no selection rule")
    parser.add_argument("--models", type=Path, default=Path("out/float"), help="folder of fine-tuned float models")
    parser.add_argument("--out", type=Path, default=Path("out/compare-methods"))
    parser.add_argument("--save_steps", type=int, default=50, help="steps that an interruption loses at most")
    parser.add_argument("--table", action="store_true", help="run nothing, only report")
    parser.add_argument("--against", default="mpq", help="'method' or 'method (variant)' of the paired intervals")
    args = parser.parse_args(argv)
    check_budgets(args.methods, args.budgets, args.config)
    if len(args.variant) > 1 and not args.table:
        parser.error("one --variant is run at a time; several are for --table")
    changed = {
        name: value for name, value in vars(args).items() if name not in CELLS and value != parser.get_default(name)
    }
    return args, {name: str(value) if isinstance(value, Path) else value for name, value in changed.items()}


def _check_alike(rows: list[dict], task: str, args: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Rows of one table are trained alike; raises SystemExit where one was not."""
    for row in rows:
        if "settings" in row and (row["task"], row["variant"]) == (task, args.variant[0]):
            names = (
                *FAIR,
                *(("config", "stages", "assignments_of", "student") if row["method"] in args.methods else ()),
            )
            other = [
                f"{name} {row['settings'].get(name, 'at its default')}, now {settings.get(name, 'at its default')}"
                for name in names
                if row["settings"].get(name) != settings.get(name)
            ]
            if other:
                raise SystemExit(
                    f"{args.out} has rows of {task} with other settings ({'; '.join(other)}): name this "
                    "--variant, or give another --out"
                )


def _float_row(study: Study, results: Results, args: argparse.Namespace) -> None:
    key = {"task": study.name, "method": "float", "variant": "", "budget": "", "seed": 0}
    if not results.has(**key):
        model = study.model()
        results.add(
            **key,
            **study.judge(model),
            unseen_kl=0.0,
            unseen_agreement=100.0,
            unseen_rows=len(study.unseen),
            megabytes=study.reference["float_megabytes"],
            **origin(),
        )


def _name(key: dict) -> str:
    return "-".join(str(part) for part in key.values() if part != "")


def _folder(key: dict, args: argparse.Namespace) -> Path:
    """Of a run, perhaps one for all budgets."""
    return args.out / "runs" / _name({**key, "budget": ""} if _has_one_run(key["method"]) else key)


def _has_one_run(method: str) -> bool:
    """Whether one run serves all budgets: it is nested, or not trained again after its search."""
    return method in SERVED or METHODS[method].retraining_free


def _remove_done(results: Results, key: dict, args: argparse.Namespace) -> None:
    """Delete the folder of a run that has given all its rows."""
    budgets = args.budgets if _has_one_run(key["method"]) else [key["budget"]]
    if all(results.has(**{**key, "budget": budget}) for budget in budgets):
        _remove(_folder(key, args))


def _remove(folder: Path) -> None:
    """Delete the folder of a run whose row is there; one that is killed meanwhile leaves nothing of that name."""
    going = folder.with_name(f"{folder.name}.removed")
    if folder.exists():
        shutil.rmtree(going, ignore_errors=True)
        folder.replace(going)
    shutil.rmtree(going, ignore_errors=True)


def _config(key: dict, args: argparse.Namespace) -> hf_mpq.MPQConfig:
    """What a run is quantized by. A super-net has no budget of its own, and given precisions need none."""
    method = key["method"]
    if method in SERVED:
        return served_config(method, args.config)
    own, given = CONFIGS.get(method, {}), {}
    if args.assignments_of:
        found = args.out / "kl" / f"{_name({**key, 'method': args.assignments_of, 'variant': ''})}.assignment.json"
        if not found.exists():
            raise SystemExit(f"{found} is not there: first run --methods {args.assignments_of} with the same --out")
        same = METHODS[args.assignments_of].config
        given = {"assignment": found, **{name: same[name] for name in ("bits", "groups", "quantizer") if name in same}}
    spec = METHODS[method]
    free = method == "q8" or spec.retraining_free or args.assignments_of or searches_shapes(spec.stages)
    budget = None if free else key["budget"]
    return hf_mpq.MPQConfig(method=method, budget=budget, embedding_bits=8, **{**own, **given, **args.config})


def _run(study: Study, key: dict, args: argparse.Namespace) -> dict[str, float]:
    """Train one model, and judge it; an interrupted run goes on, and its folder stays until its rows are there."""
    method, seed, folder = key["method"], key["seed"], _folder(key, args)
    model = hf_mpq.quantize(_student(study, seed, args), _config(key, args))
    spec = METHODS[SERVED.get(method, method)]
    arguments = run_arguments(
        folder,
        spec,
        num_train_epochs=args.epochs,
        learning_rate=args.learning_rate,
        seed=seed,
        per_device_train_batch_size=args.batch_size,
        save_steps=args.save_steps,
        stages=args.stages,
        selection_examples=args.selection_examples,
    )
    trainer = hf_mpq.MPQTrainer(
        model,
        arguments,
        train_dataset=study.train,
        data_collator=study.task.data_collator(study.tokenizer),
        processing_class=study.tokenizer,
        teacher=None if args.student is None else study.model(),
    )
    start, resumed = perf_counter(), (folder / "stages.json").exists()
    trainer.train(resume_from_checkpoint=resumed)
    searched = trainer.assignments([key["budget"]])[0] if spec.retraining_free else None
    seconds = perf_counter() - start
    shutil.rmtree(folder / "packed", ignore_errors=True)
    if method in SERVED:
        pack_served(method, trainer, study.model(), key["budget"], args.config)
    else:
        trainer.save_packed(folder / "packed", searched)
    packed = study.task.auto_class.from_pretrained(folder / "packed")
    measures = study.measures(packed, args.out / "kl" / f"{_name(key)}.npy")
    hf_mpq.assignment_of(packed).save(args.out / "kl" / f"{_name(key)}.assignment.json")
    run = json.loads((folder / "stages.json").read_text())
    shutil.copy(folder / "stages.json", args.out / "kl" / f"{_name(key)}.json")
    return {
        **measures,
        "epochs": args.epochs,
        "learning_rate": args.learning_rate,
        "seconds": None if resumed else seconds,
        "chosen": (run["selection"] or {}).get("chosen"),
        **(times(packed, study.model(), args.time) if args.time else {}),
        **_shape(packed, study.model()),
    }


def _shape(packed: nn.Module, whole: nn.Module) -> dict[str, str]:
    """Layers, hidden size and rows where they are not those of the whole model."""
    if family_of(whole) is None or sizes_of(packed) == sizes_of(whole):
        return {}
    sizes = sizes_of(packed)
    return {"shape": f"{sizes.layers} layers, {sizes.hidden} wide, {sizes.rows} rows"}


def _student(study: Study, seed: int, args: argparse.Namespace) -> nn.Module:
    """What is compressed: the task's float model, or another checkpoint, with a new head where it has none."""
    if args.student is None:
        return study.model()
    torch.manual_seed(seed)
    return study.task.auto_class.from_pretrained(args.student, **study.task.model_kwargs())


if __name__ == "__main__":
    main()
