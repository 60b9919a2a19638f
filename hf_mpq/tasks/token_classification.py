"""One label for each word: named entities and the like."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from datasets import ClassLabel, Dataset, List
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    EvalPrediction,
    PreTrainedTokenizerBase,
)

from .metrics import TaggingMetric
from .source import HubDataset
from .task import Task, logits_of

IGNORED = -100


@dataclass(frozen=True)
class TokenClassification(Task):
    """A task of tagging words with labels in the IOB scheme."""

    kind: ClassVar[str] = "token-classification"
    auto_class: ClassVar[type] = AutoModelForTokenClassification

    def features(self) -> dict[str, Any]:
        return {**dict.fromkeys(self.text_columns), self.label_column: List(ClassLabel(names=list(self.label_names)))}

    def prepare(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """The model's inputs and `labels`: a word's label on its first sub-token, -100 elsewhere.

        Words beyond `max_length` are cut off. A byte-level tokenizer must be loaded with ``add_prefix_space=True``.
        """

        def tokenize(batch: dict[str, list]) -> dict[str, list]:
            encoding = tokenizer(
                *(batch[column] for column in self.text_columns),
                is_split_into_words=True,
                truncation=True,
                max_length=max_length,
            )
            labels = [
                first_token_labels(encoding.word_ids(row), tags) for row, tags in enumerate(batch[self.label_column])
            ]
            return {**encoding, "labels": labels}

        return dataset.map(tokenize, batched=True, remove_columns=dataset.column_names)

    def data_collator(self, tokenizer: PreTrainedTokenizerBase) -> DataCollatorForTokenClassification:
        return DataCollatorForTokenClassification(tokenizer)

    def metric(self) -> TaggingMetric:
        return TaggingMetric()

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """The scores of logits (n, length, labels) against `label_ids` (n, length), where -100 is left out."""
        predicted = np.argmax(logits_of(prediction), axis=-1)
        labels, kept = prediction.label_ids, prediction.label_ids != IGNORED
        return self.metric().compute(predictions=self.tags(predicted, kept), references=self.tags(labels, kept))

    def tags(self, labels: np.ndarray, kept: np.ndarray) -> list[list[str]]:
        """The label names of each row of `labels` (n, length), where `kept` (n, length) is true."""
        return [[self.label_names[label] for label in row[mask]] for row, mask in zip(labels, kept, strict=True)]


def first_token_labels(word_ids: list[int | None], tags: list[int]) -> list[int]:
    """A label for each token: its word's tag if it is the word's first token, else -100."""
    previous = [None, *word_ids]
    return [IGNORED if word is None or word == before else tags[word] for before, word in zip(previous, word_ids)]


CONLL2003 = TokenClassification(
    name="conll2003",
    text_columns=("tokens",),
    label_column="ner_tags",
    headline="f1",
    label_names=("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"),
    hub=HubDataset("eriktks/conll2003", revision="refs/convert/parquet"),
)
