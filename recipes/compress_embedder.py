"""Compress a sentence embedder (all-MiniLM-L6-v2), word table and all: Spearman on STS-B beside bytes on disk.

For every budget once without training and once trained on a few thousand sentences without labels, to keep each
embedding (cosine) and the similarities between them; beside torch's and ONNX Runtime's dynamic int8 of the same model;
and at the same bytes without the tokens that never occur in the sentences. With --paragraphs each is also scored by how
well questions of SQuAD find theirs, and with --static it stands beside embedders without an encoder, made of the same
model (model2vec, at as many bytes) or as they are published (wordllama).
Rows are written as they come, and are not run again.

    python recipes/compress_embedder.py --data_dir DATA
    python recipes/compress_embedder.py --data_dir DATA --budgets 0.125x --train_sentences 0
    python recipes/compress_embedder.py --data_dir DATA --budgets 0.125x --paragraphs 500 --static
"""

import argparse
import copy
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import torch
from embedding_study import EmbeddingStudy, ort_dynamic, torch_dynamic
from sentence_transformers import SentenceTransformer
from static_embedders import in_sentence_transformers, model2vec, wordllama
from study import Results
from torch import nn
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

import hf_mpq
from hf_mpq.compression.vocabulary import prune_vocabulary
from hf_mpq.nn.bfloat16 import cpu_multiplies_bf16
from hf_mpq.sweep import origin
from hf_mpq.training import MPQTrainer, MPQTrainingArguments

PEERS = {"torch dynamic int8": torch_dynamic, "ONNX Runtime dynamic int8": ort_dynamic}
PRUNED = "training-free, fewer tokens"
UNUSED = {r"^pooler\.dense$": {"bits": 0}}
"""Mean pooling never asks the pooler."""


def main() -> None:
    """Run every row that is not there yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=None, help="folder with one folder per task; default: the Hub")
    parser.add_argument("--model", type=Path, default=None, help="folder of a pipeline; default: all-MiniLM-L6-v2")
    parser.add_argument("--paragraphs", type=int, default=0, help="of SQuAD, for nDCG@10 of questions")
    parser.add_argument("--static", action="store_true", help="beside model2vec and wordllama")
    parser.add_argument("--budgets", nargs="+", default=["0.5x", "0.25x", "0.125x"])
    parser.add_argument("--prune", nargs="*", default=["0.125x"], help="budgets that also run on a smaller vocabulary")
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4, 8], help="candidates; 0 prunes")
    parser.add_argument("--activation_bits", type=int, default=8)
    parser.add_argument("--calibration", type=int, default=256, help="sentences that scores and rounding look at")
    parser.add_argument("--train_sentences", type=int, default=6000, help="0: nothing is trained")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--relations", type=float, default=10.0, help="weight of the similarities' term")
    parser.add_argument("--rounding", default="autoround", help="of the training-free models")
    parser.add_argument("--pooling", default="mean", choices=("mean", "hidden"), help="what scores are about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dev_rows", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("out/embedder"))
    args = parser.parse_args()
    if args.static and (lacking := [name for name in ("model2vec", "wordllama") if find_spec(name) is None]):
        parser.error(f"--static needs packages that are not there: pip install {' '.join(lacking)}")
    results = Results(args.out / "results.jsonl", "model", "budget", "pooling")
    Rows(EmbeddingStudy(args.data_dir, args.dev_rows, args.model, args.paragraphs), args, results).run()
    print(table(results.rows))


class Rows:
    """Every row of the table."""

    def __init__(self, study: EmbeddingStudy, args, results: Results):
        self.study, self.args, self.results = study, args, results

    def run(self) -> None:
        """Float, the peers, then the budgets."""
        float_file = self.study.folder / "model.safetensors"
        self._add("float", None, lambda: (self.study.model(), float_file.stat().st_size))
        for name, quantize in PEERS.items():
            with tempfile.TemporaryDirectory() as folder:
                make = partial(quantize, self.study.model(), Path(folder))
                self._add(name, None, make)
        if self.args.static:
            self._static()
        for budget in self.args.budgets:
            self._ours(budget)
        for budget in self.args.prune:
            if not self._has(PRUNED, budget):
                self._pruned(budget)

    def _static(self) -> None:
        """Embedders without an encoder, model2vec at sizes like those of the budgets."""
        whole = (self.study.folder / "model.safetensors").stat().st_size
        widest = self.study.model().config.hidden_size
        sizes = [whole * float(budget.removesuffix("x")) for budget in self.args.budgets]
        for dims in sorted({min(widest, round(size / len(self.study.tokenizer))) for size in sizes}, reverse=True):
            name = f"model2vec, {dims} dimensions of 8 bits"
            if not self._has(name, None):
                made = model2vec(self.study.model(), self.study.tokenizer, dims, "int8")
                self._add_static(name, made.encode, made.embedding)
        if not self._has("wordllama", None):
            made = wordllama()
            self._add_static("wordllama", partial(made.embed, norm=True), made.embedding.astype("float16"))

    def _add_static(self, name: str, encode, stored) -> None:
        pipeline = in_sentence_transformers(encode, stored.shape[1])
        self.results.add(
            model=name, budget=None, pooling=None, bytes=stored.nbytes, **self.study.scores(pipeline), **origin()
        )

    def _ours(self, budget: str) -> None:
        names = ["training-free", *(["trained"] if self.args.train_sentences else [])]
        missing = [name for name in names if not self._has(name, budget)]
        if not missing:
            return
        start, tokenizer = perf_counter(), self.study.tokenizer
        model = self._compressed(self.study.model(), budget, tokenizer)
        folder, seconds = self.args.out / f"{budget}-{self.args.pooling}", perf_counter() - start
        if "training-free" in missing:
            self._add_packed("training-free", budget, model, tokenizer, folder / "training-free", seconds)
        if "trained" in missing:
            start = perf_counter()
            model = self._trained(model, tokenizer, folder / "run")
            self._add_packed(
                "trained",
                budget,
                model,
                tokenizer,
                folder / "trained",
                perf_counter() - start,
                sentences=self.args.train_sentences,
                epochs=self.args.epochs,
            )

    def _pruned(self, budget: str) -> None:
        """As many bytes as the budget leaves of the whole float model, for fewer rows."""
        start, model = perf_counter(), self.study.model()
        total = hf_mpq.size_report(model).total_bytes * float(budget.removesuffix("x"))
        model, tokenizer, vocabulary = prune_vocabulary(model, self.study.tokenizer, self.study.corpus)
        model = self._compressed(model, f"{total / 1e6}MB", tokenizer)
        folder = self.args.out / f"{budget}-{self.args.pooling}" / "pruned"
        self._add_packed(PRUNED, budget, model, tokenizer, folder, perf_counter() - start, tokens=len(tokenizer))
        vocabulary.save(folder)

    def _compressed(self, model: nn.Module, budget: str, tokenizer: PreTrainedTokenizerBase) -> nn.Module:
        torch.manual_seed(self.args.seed)
        config = hf_mpq.MPQConfig(
            bits=tuple(self.args.bits), quantizer="lsq", activation_bits=self.args.activation_bits, rules=UNUSED
        )
        calibration = self.study.sentences(self.args.calibration, tokenizer, self.args.seed + 1)
        pooling = None if self.args.pooling == "hidden" else self.args.pooling
        return hf_mpq.compress(model, budget, calibration, config, pooling=pooling, rounding=self.args.rounding)

    def _trained(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path) -> nn.Module:
        args, objectives = self.args, {"embedding-cosine": {}, "embedding-relations": {"weight": self.args.relations}}
        arguments = MPQTrainingArguments(
            str(folder),
            num_train_epochs=args.epochs,
            learning_rate=args.learning_rate,
            warmup_steps=0.05,
            bf16=torch.cuda.is_available() or cpu_multiplies_bf16(),
            per_device_train_batch_size=args.batch_size,
            train_sampling_strategy="group_by_length",
            save_steps=500,
            save_total_limit=1,
            logging_steps=50,
            report_to=[],
            seed=args.seed,
            use_cpu=not torch.cuda.is_available(),
            stages={"qat": {"objectives": objectives}},
        )
        rows = self.study.sentences(args.train_sentences, tokenizer, args.seed)
        trainer = MPQTrainer(
            model,
            arguments,
            teacher=self.study.model(),
            train_dataset=rows,
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
        )
        trainer.train(resume_from_checkpoint=(folder / "stages.json").exists())
        return trainer.model

    def _add_packed(
        self,
        name: str,
        budget: str,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        seconds: float,
        **more,
    ) -> None:
        """Save the whole pipeline, load it again, and score that."""
        packed = hf_mpq.pack(copy.deepcopy(model).cpu().eval())
        report = hf_mpq.size_report(packed)
        self.study.embedder(packed, tokenizer).save_pretrained(str(folder))
        again = SentenceTransformer(str(folder), device="cpu")
        self.results.add(
            model=name,
            budget=budget,
            pooling=self.args.pooling,
            **self.study.scores(again),
            bytes=(folder / "model.safetensors").stat().st_size,
            code_bits=report.average_bits,
            embedding_bytes=report.embedding_bytes,
            seconds=seconds,
            rounding=self.args.rounding,
            calibration=self.args.calibration,
            **more,
            **origin(),
        )

    def _has(self, name: str, budget: str | None) -> bool:
        return self.results.has(model=name, budget=budget, pooling=self.args.pooling if budget else None)

    def _add(self, name: str, budget: str | None, make) -> None:
        if not self._has(name, budget):
            model, size = make()
            self.results.add(
                model=name,
                budget=budget,
                pooling=None,
                bytes=size,
                **self.study.scores(self.study.embedder(model)),
                **origin(),
            )


def table(rows: list[dict]) -> str:
    """The rows in markdown."""
    whole = next(row["bytes"] for row in rows if row["model"] == "float")
    lines = ["| model | budget | file MB | of float | Spearman x 100 | nDCG@10 x 100 |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row['model']} | {row['budget'] or ''} | {row['bytes'] / 1e6:.2f} | {row['bytes'] / whole:.3f} | "
        f"{row['spearman']:.2f} | {_or_nothing(row.get('ndcg'))} |"
        for row in rows
    ]
    return "\n".join(lines)


def _or_nothing(score: float | None) -> str:
    return "" if score is None else f"{score:.2f}"


if __name__ == "__main__":
    main()
