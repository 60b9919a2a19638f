"""A task with the float model that is compressed: its data, and how good and how near another model is."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from filelock import FileLock
from torch import nn
from transformers import AutoTokenizer, EvalPrediction, PreTrainedTokenizerBase

from ..report import size_report
from ..tasks import Task, evaluate_model, get_task, predict, subset
from ..training import fine_tune
from .distances import agreement, divergence, divergences

UNSEEN_ROWS = 2000
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Where models are judged."""


@dataclass
class Study:
    """One task with the float model that is compressed.

    Args:
        name: of the task.
        models: folder in which float models are kept, one folder each.
        data_dir: folder with one folder per task; None for the Hub.
        train_rows: rows of the training set that are used, drawn by `seed`.
        epochs, seed, max_length: how a model that is not there yet is fine-tuned from `pretrained`; with 0 epochs
            `pretrained` is the float model.
        dev_rows: rows of the dev set that are scored, from its start; None for all.
        pretrained: folder or name of what is fine-tuned, with its tokenizer.
    """

    name: str
    models: Path
    data_dir: Path | None
    train_rows: int = 6000
    epochs: float = 3
    seed: int = 0
    max_length: int = 128
    dev_rows: int | None = None
    pretrained: str = ""

    @cached_property
    def task(self) -> Task:
        """The task."""
        return get_task(self.name)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """That of `pretrained`."""
        return AutoTokenizer.from_pretrained(self.pretrained)

    @cached_property
    def data(self) -> dict[str, Dataset]:
        """Train (a subset) and validation."""
        data = self.task.load(self.data_dir)
        dev = data["validation"]
        rows = len(dev) if self.dev_rows is None else min(self.dev_rows, len(dev))
        return {"train": subset(data["train"], self.train_rows, self.seed), "validation": dev.select(range(rows))}

    @cached_property
    def train(self) -> Dataset:
        """The tokenized training rows."""
        return self.task.prepare(self.data["train"], self.tokenizer, self.max_length)

    @cached_property
    def folder(self) -> Path:
        """Where the float model is; it is fine-tuned first where it is not there yet, by one process."""
        if not self.epochs:
            return Path(self.pretrained)
        folder = self.models / f"{self.name}-seed{self.seed}-float"
        if not (folder / "model.safetensors").exists():
            self.models.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f"{folder.name}.lock")):
                if not (folder / "model.safetensors").exists():
                    self._fine_tune(folder)
        return folder

    def _fine_tune(self, folder: Path) -> None:
        torch.manual_seed(self.seed)
        model = self.task.auto_class.from_pretrained(self.pretrained, **self.task.model_kwargs())
        fine_tune(
            model,
            self.train,
            self.task.data_collator(self.tokenizer),
            self.models / "training",
            num_train_epochs=self.epochs,
            learning_rate=1e-4,
            seed=self.seed,
        )
        partial = folder.with_name(f"{folder.name}.partial")
        model.save_pretrained(partial)
        partial.replace(folder)

    def model(self) -> nn.Module:
        """A fresh copy of the float model."""
        return self.task.auto_class.from_pretrained(self.folder).eval()

    def calibration(self, examples: int = 512) -> Dataset:
        """Tokenized rows of the training set, without labels."""
        chosen = subset(self.data["train"], examples, self.seed + 1)
        return self.task.prepare(chosen, self.tokenizer, self.max_length).remove_columns("labels")

    @cached_property
    def dev(self) -> Dataset:
        """The tokenized dev rows."""
        return self.task.prepare(self.data["validation"], self.tokenizer, self.max_length)

    @cached_property
    def unseen(self) -> Dataset:
        """Tokenized rows without labels that nothing was trained on: of the training set where it has some left, else
        the dev rows."""
        every, used = self.task.load(self.data_dir)["train"], len(self.data["train"])
        if len(every) < used + UNSEEN_ROWS:
            return self.dev
        rows = every.shuffle(seed=self.seed).select(range(used, used + UNSEEN_ROWS))
        return self.task.prepare(rows, self.tokenizer, self.max_length)

    @cached_property
    def unseen_logits(self) -> np.ndarray:
        """The float model's logits on the unseen rows."""
        return self.logits(self.model(), self.unseen)

    @cached_property
    def float_logits(self) -> np.ndarray:
        """The float model's logits on the dev rows, `(rows, classes)`."""
        return self.logits(self.model(), self.dev)

    def logits(self, model: nn.Module, rows: Dataset) -> np.ndarray:
        """Logits of a model for tokenized rows, `(rows, classes)`; on a GPU where there is one, and the model stays
        there."""
        return predict(model.to(DEVICE), rows, self.tokenizer)[0]

    def judge(self, model: nn.Module) -> dict[str, float]:
        """Dev score (`score`, in percent), KL divergence from the float model per row (regression: half the squared
        difference), and agreement with its labels in percent; the score alone where a row has several labels or a
        span."""
        if self.task.kind != "sequence-classification":
            return {"score": self.score(model)}
        logits = self.logits(model, self.dev)
        return {
            "score": self._headline(logits),
            "kl": divergence(self.float_logits, logits),
            "agreement": 100 * agreement(self.float_logits, logits),
        }

    def _headline(self, logits: np.ndarray) -> float:
        """Of logits on the dev rows, in percent."""
        metrics = self.task.compute_metrics(EvalPrediction(logits, np.array(self.dev["labels"])))
        return 100 * metrics[self.task.headline]

    @cached_property
    def reference(self) -> dict[str, float]:
        """What every row says of the float model and of the data: `float_score`, `float_megabytes`, `train_rows` and
        `dev_rows`."""
        model = self.model()
        classifies = self.task.kind == "sequence-classification"
        return {
            "float_score": self._headline(self.float_logits) if classifies else self.score(model),
            "float_megabytes": sum(one.numel() for one in model.parameters()) * 4 / 1e6,
            "train_rows": len(self.data["train"]),
            "dev_rows": len(self.data["validation"]),
        }

    def score(self, model: nn.Module) -> float:
        """The dev set's headline metric, in percent."""
        found = evaluate_model(model.to(DEVICE), self.task, self.data["validation"], self.tokenizer, self.max_length)
        return found[self.task.headline] * (1 if self.task.kind == "question-answering" else 100)

    def measures(self, packed: nn.Module, keep: Path | None = None) -> dict[str, float]:
        """All of a row that is measured on a packed model: what `judge` gives, how far it is from the float model on
        unseen rows (`unseen_kl`, `unseen_agreement`, `unseen_rows`), `code_bits`, `megabytes`, and `reference`.

        Args:
            keep: file that gets the `divergences` of the unseen rows as float32, for paired differences.
        """
        found = self.judge(packed)
        if self.task.kind == "sequence-classification":
            logits = self.logits(packed, self.unseen)
            distances = divergences(self.unseen_logits, logits)
            found |= {
                "unseen_kl": float(distances.mean()),
                "unseen_agreement": 100 * agreement(self.unseen_logits, logits),
                "unseen_rows": len(self.unseen),
            }
            if keep is not None:
                keep.parent.mkdir(parents=True, exist_ok=True)
                np.save(keep, distances.astype(np.float32))
        report = size_report(packed)
        size = {"code_bits": report.average_bits, "megabytes": report.total_bytes / 1e6}
        return {**found, **size, **self.reference}
