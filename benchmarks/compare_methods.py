"""Methods side by side: the same teacher, data, epochs, learning rate, seeds and budgets for all of them.

    python benchmarks/compare_methods.py --data_dir DATA --tasks sst2 --methods mpq uniform --budgets 2bits 2.5bits
    python benchmarks/compare_methods.py --tasks sst2 --methods mpq uniform --budgets 2bits 2.5bits --table

Every run is a row of `results.jsonl`; what is there is not run again, and an interrupted run goes on where it was. The
tables, the paired intervals and the picture are made of what is there, and name the command of what is not.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import recipes_folder  # noqa: F401
import torch
from comparison import command, write_report
from study import Results, Study, agreement, divergences

import hf_mpq
from hf_mpq.training.fine_tuning import cpu_multiplies_bf16

CONFIGS = {
    "mpq": {"bits": [1, 2, 3, 4, 8]},
    "uniform": {"bits": [2, 3, 4, 8]},
}
"""Candidates where they differ from the method's own."""
KEYS = ("task", "method", "variant", "budget", "seed")
CELLS = ("tasks", "methods", "budgets", "seeds", "variant", "table")
"""Arguments that say which rows; all others are their settings."""
FAIR = ("epochs", "learning_rate", "batch_size", "train_rows", "float_epochs", "dev_rows", "selection_examples")
"""Settings that all rows of a task and variant share."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, then report."""
    args, settings = _arguments(argv)
    results = Results(args.out / "results.jsonl", *KEYS)
    for task in args.tasks if not args.table else ():
        _check_alike(results.rows, task, args, settings)
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
            key = dict(zip(KEYS, (task, method, args.variant, budget, seed)))
            folder = _folder(key, args)
            if not results.has(**key):
                results.add(**key, **_run(study, key, folder, args), settings=settings, command=command(key, settings))
            _remove(folder)
    cells = product(args.tasks, args.methods, args.budgets, args.seeds)
    wanted = [dict(zip(KEYS, (task, method, args.variant, budget, seed))) for task, method, budget, seed in cells]
    write_report(results.rows, wanted, args.out, settings)


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
    parser.add_argument("--variant", default="", help="name of a run with other --config or --stages")
    parser.add_argument("--config", type=json.loads, default={}, help='fields of MPQConfig, such as {"bits": [2, 4]}')
    parser.add_argument("--stages", type=json.loads, default={}, help="changes to stages, as in MPQTrainingArguments")
    parser.add_argument("--selection_examples", type=int, default=256, help="0: no selection rule")
    parser.add_argument("--models", type=Path, default=Path("out/float"), help="folder of fine-tuned float models")
    parser.add_argument("--out", type=Path, default=Path("out/compare-methods"))
    parser.add_argument("--save_steps", type=int, default=50, help="steps that an interruption loses at most")
    parser.add_argument("--table", action="store_true", help="run nothing, only report")
    args = parser.parse_args(argv)
    changed = {
        name: value for name, value in vars(args).items() if name not in CELLS and value != parser.get_default(name)
    }
    return args, {name: str(value) if isinstance(value, Path) else value for name, value in changed.items()}


def _check_alike(rows: list[dict], task: str, args: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Rows of one table are trained alike; raises SystemExit where one was not."""
    for row in rows:
        if "settings" in row and (row["task"], row["variant"]) == (task, args.variant):
            names = (*FAIR, *(("config", "stages") if row["method"] in args.methods else ()))
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
            megabytes=sum(one.numel() for one in model.parameters()) * 4 / 1e6,
        )


def _folder(key: dict, args: argparse.Namespace) -> Path:
    return args.out / "runs" / "-".join(str(part) for part in key.values() if part != "")


def _remove(folder: Path) -> None:
    """Delete the folder of a run whose row is there; one that is killed meanwhile leaves nothing of that name."""
    going = folder.with_name(f"{folder.name}.removed")
    if folder.exists():
        shutil.rmtree(going, ignore_errors=True)
        folder.replace(going)
    shutil.rmtree(going, ignore_errors=True)


def _run(study: Study, key: dict, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Train one model, and judge it; an interrupted run goes on, and its folder stays until its row is there."""
    method, seed = key["method"], key["seed"]
    config = {**CONFIGS.get(method, {}), **args.config}
    model = hf_mpq.quantize(
        study.model(),
        hf_mpq.MPQConfig(method=method, budget=None if method == "q8" else key["budget"], embedding_bits=8, **config),
    )
    spec = hf_mpq.core.METHODS[method]
    same_rate = {stage.name: {"arguments": {"learning_rate": args.learning_rate}} for stage in spec.stages}
    changes = {name: {**same_rate[name], **args.stages.get(name, {})} for name in same_rate}
    arguments = hf_mpq.MPQTrainingArguments(
        str(folder),
        num_train_epochs=args.epochs,
        learning_rate=args.learning_rate,
        warmup_steps=0.1,
        seed=seed,
        per_device_train_batch_size=args.batch_size,
        train_sampling_strategy="group_by_length",
        save_steps=args.save_steps,
        save_total_limit=1,
        logging_steps=25,
        report_to="none",
        disable_tqdm=True,
        bf16=cpu_multiplies_bf16(),
        use_cpu=not torch.cuda.is_available(),
        stages=changes,
        selection_examples=args.selection_examples,
    )
    rows = study.task.prepare(study.data["train"], study.tokenizer, study.max_length)
    trainer = hf_mpq.MPQTrainer(
        model,
        arguments,
        train_dataset=rows,
        data_collator=study.task.data_collator(study.tokenizer),
        processing_class=study.tokenizer,
    )
    start, resumed = perf_counter(), (folder / "stages.json").exists()
    trainer.train(resume_from_checkpoint=resumed)
    seconds = perf_counter() - start
    trainer.save_packed(folder / "packed")
    packed = study.task.auto_class.from_pretrained(folder / "packed")
    logits, report = study.logits(packed, study.unseen), hf_mpq.size_report(packed)
    distances = divergences(study.unseen_logits, logits)
    (args.out / "kl").mkdir(exist_ok=True)
    np.save(args.out / "kl" / f"{folder.name}.npy", distances)
    run = json.loads((folder / "stages.json").read_text())
    shutil.copy(folder / "stages.json", args.out / "kl" / f"{folder.name}.json")
    return {
        **study.judge(packed),
        "unseen_kl": float(distances.mean()),
        "unseen_agreement": 100 * agreement(study.unseen_logits, logits),
        "unseen_rows": len(study.unseen),
        "code_bits": report.average_bits,
        "megabytes": report.total_bytes / 1e6,
        "epochs": args.epochs,
        "learning_rate": args.learning_rate,
        "seconds": None if resumed else seconds,
        "chosen": (run["selection"] or {}).get("chosen"),
    }


if __name__ == "__main__":
    main()
