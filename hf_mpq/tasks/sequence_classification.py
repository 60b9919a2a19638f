"""One label, or one number, for a text or a pair of texts."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from datasets import ClassLabel, Dataset, List, Value
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedTokenizerBase,
)

from .metrics import SequenceMetric
from .task import Task, logits_of


@dataclass(frozen=True)
class SequenceClassification(Task):
    """A task of classification or regression; `scores` names its metrics (see `SequenceMetric`)."""

    kind: ClassVar[str] = "sequence-classification"
    auto_class: ClassVar[type] = AutoModelForSequenceClassification

    scores: tuple[str, ...] = ("accuracy",)

    def features(self) -> dict[str, Any]:
        label = Value("float32") if self.regression else ClassLabel(names=list(self.label_names))
        return {**dict.fromkeys(self.text_columns), self.label_column: label}

    def prepare(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """The model's inputs and `labels`: int64 class ids, or float32 for regression."""
        prepared = self.tokenized(dataset, tokenizer, max_length)
        return prepared.cast_column("labels", Value("float32") if self.regression else Value("int64"))

    def tokenized(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """The model's inputs, and the labels as they are in `labels`; texts may be lists of words."""
        words = isinstance(dataset.features[self.text_columns[0]], List)

        def tokenize(batch: dict[str, list]) -> dict[str, list]:
            texts = (batch[column] for column in self.text_columns)
            inputs = tokenizer(*texts, truncation=True, max_length=max_length, is_split_into_words=words)
            return {**inputs, "labels": batch[self.label_column]}

        return dataset.map(tokenize, batched=True, remove_columns=dataset.column_names)

    def model_kwargs(self) -> dict[str, Any]:
        if self.regression:
            return {"num_labels": 1, "problem_type": "regression"}
        return {**super().model_kwargs(), "problem_type": "single_label_classification"}

    def data_collator(self, tokenizer: PreTrainedTokenizerBase) -> DataCollatorWithPadding:
        return DataCollatorWithPadding(tokenizer)

    def metric(self) -> SequenceMetric:
        return SequenceMetric(self.scores)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """The scores of logits (n, labels), or of predicted values (n, 1), against `label_ids` (n,)."""
        logits = logits_of(prediction)
        predictions = logits.reshape(-1) if self.regression else np.argmax(logits, axis=-1)
        return self.metric().compute(predictions=predictions, references=prediction.label_ids)
