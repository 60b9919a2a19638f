"""Any number of labels for a text or a pair of texts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, List, Value
from transformers import EvalPrediction, PreTrainedTokenizerBase

from .metrics import LabelSetMetric
from .sequence_classification import SequenceClassification
from .task import logits_of


@dataclass(frozen=True)
class MultiLabelClassification(SequenceClassification):
    """A task whose label column has a list for each text: 1 for every label that holds, else 0."""

    scores: tuple[str, ...] = ("micro_f1", "macro_f1", "subset_accuracy")

    def features(self) -> dict[str, Any]:
        return {**dict.fromkeys(self.text_columns), self.label_column: List(Value("float32"))}

    def prepare(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """The model's inputs and `labels`, a float32 for each label."""
        return self.tokenized(dataset, tokenizer, max_length).cast_column("labels", List(Value("float32")))

    def model_kwargs(self) -> dict[str, Any]:
        return {**super().model_kwargs(), "problem_type": "multi_label_classification"}

    def metric(self) -> LabelSetMetric:
        return LabelSetMetric(self.scores)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """The scores of logits (n, labels), above 0 where a label holds, against `label_ids` (n, labels)."""
        held = (logits_of(prediction) > 0).astype(np.int64)
        return self.metric().compute(predictions=held, references=np.asarray(prediction.label_ids).astype(np.int64))
