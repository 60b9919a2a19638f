"""What every task is: where its data come from, how they are tokenized, which model fits, how it is scored."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import evaluate
import numpy as np
from datasets import Dataset, DatasetDict
from transformers import EvalPrediction, PreTrainedTokenizerBase

from .columns import conform
from .source import HubDataset, load_folder, load_hub


@dataclass(frozen=True)
class Task(ABC):
    """One labelled data set together with its metric.

    Attributes:
        name: the name in the registry, also the name of the folder below `data_dir`.
        text_columns: the column of the text, or the two columns of a pair of texts, in the order of the tokenizer.
        label_column: the column of the label.
        label_names: the label names in the order of their ids; empty for regression and for question answering.
        headline: the metric that a table shows and that chooses a best model.
        hub: where `load` finds the data set on the Hub; None for a task that makes its own data.
        validation_split: the name of the split that is called "validation" here.
        regression: whether the label is a number.
    """

    kind: ClassVar[str]

    name: str
    text_columns: tuple[str, ...]
    label_column: str
    label_names: tuple[str, ...]
    headline: str
    hub: HubDataset | None = None
    validation_split: str = "validation"
    regression: bool = False

    def load(self, data_dir: str | Path | None = None) -> DatasetDict:
        """The splits "train" and "validation", from ``data_dir/<name>`` or, without `data_dir`, from the Hub.

        A folder holds ``train.parquet`` and ``validation.parquet`` (``validation_matched`` for MNLI), in the columns
        of the Hub; ``.jsonl`` works too, and so does a part named ``*_subset`` or ``*_recast``, with a warning.

        Raises:
            FileNotFoundError: a folder or a split is missing.
            ConnectionError: the Hub cannot be reached.
            ValueError: a column is missing, or its labels are not those of this task.
        """
        splits = {"train": "train", "validation": self.validation_split}
        loaded = load_hub(self.hub, splits) if data_dir is None else load_folder(Path(data_dir) / self.name, splits)
        return DatasetDict({split: conform(dataset, self.features(), self.name) for split, dataset in loaded.items()})

    @abstractmethod
    def features(self) -> dict[str, Any]:
        """The columns that the data must have, each with its feature type, or None where any type will do."""

    @abstractmethod
    def prepare(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """`dataset` tokenized, truncated to `max_length` tokens and not padded, with labels, ready for a Trainer."""

    def prepare_evaluation(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """As `prepare`, with whatever else `metric_function` needs to score the predictions."""
        return self.prepare(dataset, tokenizer, max_length)

    @property
    @abstractmethod
    def auto_class(self) -> type:
        """The class of transformers whose `from_pretrained` makes a model with the head of this task."""

    def model_kwargs(self) -> dict[str, Any]:
        """What `from_pretrained` of `auto_class` needs to know about the labels."""
        return {
            "num_labels": len(self.label_names),
            "id2label": dict(enumerate(self.label_names)),
            "label2id": {label: number for number, label in enumerate(self.label_names)},
        }

    @abstractmethod
    def data_collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable:
        """Pads the rows of `prepare` to one batch."""

    @abstractmethod
    def metric(self) -> evaluate.Metric:
        """The metric of this task, which works without a network."""

    @abstractmethod
    def compute_metrics(self, prediction: EvalPrediction) -> Mapping[str, float]:
        """The scores of a Trainer's predictions, `headline` among them."""

    def metric_function(self, examples: Dataset, features: Dataset) -> Callable[[EvalPrediction], Mapping[str, float]]:
        """`compute_metrics` for predictions on `features`, which `prepare_evaluation` made from `examples`."""
        return self.compute_metrics


def logits_of(prediction: EvalPrediction) -> np.ndarray:
    """The first of a model's outputs, which are a tuple where it returns more than logits."""
    predictions = prediction.predictions
    return predictions[0] if isinstance(predictions, tuple) else predictions
