"""Rows of text, to calibrate on and to score on."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from ..console import say
from .columns import is_words
from .filters import with_label, with_text
from .labels import are_labels

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerBase

    from ...tasks import Task

EVALUATION = ("validation", "validation_matched", "dev", "test")


@dataclass(frozen=True)
class Examples:
    """Rows, their text, and how they are scored; labels are read of no rows but those that are scored.

    Attributes:
        name: what `--data` says.
        splits: by name, as they were found.
        text_columns: one, or two for pairs; empty where the rows are tokenized already.
        task: None where there is no column of labels.
        as_ids: gives rows the model's ids as labels, or numbers for regression.
    """

    name: str
    splits: "DatasetDict"
    text_columns: tuple[str, ...]
    task: "Task | None" = None
    as_ids: "Callable[[Dataset], Dataset] | None" = None

    def calibration(
        self, tokenizer: "PreTrainedTokenizerBase", max_length: int, rows: int, apart: bool = False
    ) -> "Dataset":
        """Up to `rows` tokenized rows of the training split, or of the only one; a function of nothing but the data.

        Args:
            apart: the texts of a pair are rows of their own, as an embedder reads them.
        """
        from datasets import Dataset

        from ...tasks import subset

        texts, columns = self._texts("train" if "train" in self.splits else next(iter(self.splits))), self.text_columns
        if apart and len(columns) > 1:
            chosen = subset(texts, -(-rows // len(columns)))
            pairs = zip(*(chosen[name][:] for name in columns))
            alone = Dataset.from_dict({"text": [text for pair in pairs for text in pair][:rows]})
            return tokenized(alone, ("text",), None, tokenizer, max_length)
        chosen = subset(texts, rows)
        return tokenized(chosen, self.text_columns, self.task, tokenizer, max_length)

    @property
    def scored(self) -> str:
        """The validation split, else the test split, else the last."""
        return next((split for split in EVALUATION if split in self.splits), list(self.splits)[-1])

    def evaluation(self, rows: int | None = None) -> "Dataset":
        """Raw rows of the scored split, with the model's ids as labels; the first `rows` of them.

        Raises:
            UserError: none has a text and a label, or the labels are not the model's.
            ValueError: the task's columns are not there.
        """
        from ...tasks.columns import conform

        data, task = self._texts(self.scored), self.task
        if task is not None:
            data = conform(data, dict.fromkeys(task.features()), task.name)
            data = with_label(data, task.label_column, task.regression, self._where(self.scored), task.label_names)
        data = data if rows is None else data.select(range(min(rows, len(data))))
        return data if self.as_ids is None else self.as_ids(data)

    def without_empty_labels(self) -> "Examples":
        """The same as of texts alone, and a word about it, where no scored row has a label."""
        data, task = self.splits[self.scored], self.task
        if task is None or task.kind != "sequence-classification":
            return self
        labels = data[task.label_column][:] if task.label_column in data.column_names else []
        if any(are_labels(labels, task.regression, task.label_names)):
            return self
        say(f"{self._where(self.scored)}: no row has a label in {task.label_column!r}, so there is no metric")
        return replace(self, task=None, as_ids=None)

    def _texts(self, split: str) -> "Dataset":
        return with_text(self.splits[split], self.text_columns, self._where(split))

    def _where(self, split: str) -> str:
        return f"{self.name}, split {split!r}"


def tokenized(
    data: "Dataset",
    columns: tuple[str, ...],
    task: "Task | None",
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
) -> "Dataset":
    """The model's inputs for rows of text, without labels; rows that are tokenized already as they are."""
    if not columns:
        return data
    if task is not None and task.kind == "question-answering":
        return task.windows(data, tokenizer, max_length, lambda *_: {})
    encode = partial(tokenizer, truncation=True, max_length=max_length, is_split_into_words=is_words(data, columns[0]))
    return data.map(
        lambda batch: encode(*(batch[name] for name in columns)), batched=True, remove_columns=data.column_names
    )
