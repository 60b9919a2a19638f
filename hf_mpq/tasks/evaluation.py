"""Scoring a model on a task without a Trainer, which refuses models that cannot be trained, packed ones among them."""

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from ..core.inputs import INPUTS
from .task import Task

PADDING = -100


def evaluate_model(
    model: nn.Module,
    task: Task,
    examples: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int = 128,
    batch_size: int = 64,
) -> dict[str, float]:
    """Metrics of `model` on raw `examples` of `task`, any storage, on the model's device."""
    rows = task.prepare_evaluation(examples, tokenizer, max_length)
    predictions = predict(model, rows, tokenizer, batch_size)
    labels = _stack([np.array([label]) for label in rows["labels"]]) if "labels" in rows.column_names else None
    prediction = EvalPrediction(predictions if len(predictions) > 1 else predictions[0], labels)
    return dict(task.metric_function(examples, rows)(prediction))


@torch.no_grad()
def predict(
    model: nn.Module, rows: Dataset, tokenizer: PreTrainedTokenizerBase, batch_size: int = 64
) -> tuple[np.ndarray, ...]:
    """Logits of `model` for tokenized rows, `(rows, ...)`; two arrays for spans.

    Rows of similar length share a batch; the results are in the original order.
    """
    order = np.argsort([-len(ids) for ids in rows["input_ids"]], kind="stable")
    inputs = rows.select_columns([name for name in INPUTS if name in rows.column_names]).select(order)
    model.eval()
    pad = lambda part: tokenizer.pad(part, return_tensors="pt")  # noqa: E731
    batches = DataLoader(inputs, batch_size=batch_size, collate_fn=pad)
    found = [_outputs(model(**batch.to(model.device))) for batch in batches]
    back = np.argsort(order)
    return tuple(_stack(parts)[back] for parts in zip(*found))


def _outputs(output: ModelOutput) -> list[np.ndarray]:
    """Logits of a batch: one array, or start and end."""
    kept = [value for name, value in output.items() if name.endswith("logits")]
    return [value.float().cpu().numpy() for value in kept if isinstance(value, Tensor)]


def _stack(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Batches one below the other, shorter ones padded along the tokens."""
    if parts[0].ndim == 1:
        return np.concatenate(parts)
    width = max(part.shape[1] for part in parts)
    rest = [(0, 0)] * (parts[0].ndim - 2)
    padding = ([(0, 0), (0, width - part.shape[1]), *rest] for part in parts)
    return np.concatenate([np.pad(p, pads, constant_values=PADDING) for p, pads in zip(parts, padding)])
