"""Scores in points, from 0 to 100 as papers print them, whatever the metric's own scale."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import UserError
from .rows.examples import Examples, tokenized

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ..nn.heads import Decisions
    from ..tasks import Task


def points(task: "Task", metrics: Mapping[str, float]) -> float:
    """The headline metric of a task times 100, but for question answering, which counts percent itself."""
    return metrics[task.headline] * (1.0 if task.kind == "question-answering" else 100.0)


def check_head(task: "Task", model: "nn.Module") -> None:
    """Refuse a model whose head does not fit the task.

    Raises:
        UserError: it does not.
    """
    from ..nn.heads import has_several_labels
    from ..tasks import MultiLabelClassification

    wanted = task.auto_class.__name__.removeprefix("AutoModel")
    if not type(model).__name__.endswith(wanted):
        raise UserError(
            f"scoring {task.name!r} needs a model of the kind ...{wanted}, this one is "
            f"{type(model).__name__}: give another task (--task) or model"
        )
    labels = 1 if getattr(task, "regression", False) else len(task.label_names)
    several = has_several_labels(model.config)
    if task.kind == "sequence-classification" and several != isinstance(task, MultiLabelClassification):
        raise UserError(
            f"the model gives {'any number of labels' if several else 'one label'} for a text, and "
            f"{task.name!r} asks for {'one label' if several else 'several'}: give the data that it was "
            f"trained for"
        )
    if labels and model.config.num_labels != labels:
        raise UserError(
            f"the model has {model.config.num_labels} labels, and {task.name!r} has {labels}: give the "
            f"data that it was trained for"
        )


def check_labels(task: "Task", data: "Dataset") -> None:
    """Refuse rows of which no metric can be told, where it would count as 0 for every model.

    Raises:
        UserError: numbers are all equal, or no query has passages of different relevance.
    """
    from ..tasks import Ranking

    if not getattr(task, "regression", False):
        return
    labels = data[task.label_column][:]
    if isinstance(task, Ranking):
        degrees: dict[str, set] = {}
        for query, label in zip(data[task.text_columns[0]][:], labels):
            degrees.setdefault(query, set()).add(label)
        if all(len(one) < 2 for one in degrees.values()):
            raise UserError(f"no query of these {len(labels)} rows has passages of different relevance: give more rows")
    elif len(set(labels)) < 2:
        raise UserError(f"the numbers of these {len(labels)} rows are all equal, so nothing correlates: give others")


def scorer(
    found: Examples, tokenizer: "PreTrainedTokenizerBase", max_length: int, rows: int | None
) -> Callable[["nn.Module"], float]:
    """A function from a model to its points on the evaluation rows."""
    from ..tasks import evaluate_model

    data = found.evaluation(rows)
    check_labels(found.task, data)

    def evaluate(model: "nn.Module") -> float:
        check_head(found.task, model)
        return points(found.task, evaluate_model(model, found.task, data, tokenizer, max_length))

    return evaluate


@dataclass(frozen=True)
class Judged:
    """What a model says about the evaluation rows.

    Attributes:
        decisions: of every row, labelled word, or start and end of a span; None where they are numbers.
        points: of the headline metric; None without labels, NaN where an output is not finite.
        metrics: all of the task's, in their own scale; only the headline where an output is not finite.
    """

    decisions: "tuple[Decisions, ...] | None"
    points: float | None
    metrics: Mapping[str, float]


class Judge:
    """Runs models over the same evaluation rows.

    Args:
        found: the examples.
        tokenizer, max_length, rows: how they are cut, and how many count.
    """

    def __init__(self, found: Examples, tokenizer: "PreTrainedTokenizerBase", max_length: int, rows: int | None):
        self.task, self.tokenizer = found.task, tokenizer
        self.data = found.evaluation(rows)
        if self.task is not None:
            check_labels(self.task, self.data)
        self.rows = (
            tokenized(self.data, found.text_columns, None, tokenizer, max_length)
            if self.task is None
            else self.task.prepare_evaluation(self.data, tokenizer, max_length)
        )

    def judge(self, model: "nn.Module") -> Judged:
        """Points and decisions of a model.

        Raises:
            UserError: its head does not fit, or it has no logits.
        """
        from transformers import EvalPrediction

        from ..tasks import predict

        if self.task is not None:
            check_head(self.task, model)
        elif not hasattr(model, "num_labels") or not type(model).__name__.endswith("ForSequenceClassification"):
            raise UserError(
                f"without a task only sequence classifiers can be compared, this is "
                f"{type(model).__name__}: name the task with --task"
            )
        logits = predict(model, self.rows, self.tokenizer)
        decisions = self._decisions(model, logits)
        if self.task is None:
            return Judged(decisions, None, {})
        metrics = {self.task.headline: math.nan}
        if all(np.isfinite(part).all() for part in logits):
            prediction = EvalPrediction(logits if len(logits) > 1 else logits[0], self._labels())
            metrics = self.task.metric_function(self.data, self.rows)(prediction)
        return Judged(decisions, points(self.task, metrics), metrics)

    def _labels(self) -> np.ndarray | None:
        """Labels of the rows, those of words padded with -100."""
        if "labels" not in self.rows.column_names:
            return None
        labels: list = self.rows["labels"][:]
        if not isinstance(labels[0], list):
            return np.array(labels)
        width = max(map(len, labels))
        return np.array([[*row, *[-100] * (width - len(row))] for row in labels])

    def _decisions(self, model: "nn.Module", logits: "tuple[np.ndarray, ...]") -> "tuple[Decisions, ...] | None":
        import torch

        from ..nn.heads import SPANS, VALUES, decisions_of

        outputs = dict(zip(SPANS if len(logits) > 1 else ["logits"], map(torch.from_numpy, logits)))
        words = torch.from_numpy(self._labels() != -100) if logits[0].ndim == 3 else None
        found = tuple(decisions_of(model.config, outputs, words).values())
        return None if any(one.kind == VALUES for one in found) else found
