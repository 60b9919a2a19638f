"""Questions whose answer is a span of a context: SQuAD v1.1 (Rajpurkar et al. 2016)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from transformers import (
    AutoModelForQuestionAnswering,
    BatchEncoding,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedTokenizerBase,
)

from .metrics import SQuADMetric
from .source import HubDataset
from .squad_answers import Answer, postprocess
from .squad_windows import answer_tokens, context_offsets, encode_windows
from .task import Task

NO_ANSWER = (0, 0)


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """A task of extractive question answering; neighbouring windows of a context share up to `stride` tokens."""

    kind: ClassVar[str] = "question-answering"
    auto_class: ClassVar[type] = AutoModelForQuestionAnswering

    stride: int = 128

    def features(self) -> dict[str, Any]:
        return dict.fromkeys(("id", *self.text_columns, self.label_column))

    def prepare(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """The model's inputs, `start_positions` and `end_positions`; a row is a window of a context, in order.

        The positions are those of the first answer, or 0 (the token for the class) where the window does not hold it.
        The overlap is `stride`, and at most a third of `max_length`.
        """
        return self.windows(dataset, tokenizer, max_length, position_columns)

    def prepare_evaluation(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """As `prepare`, with `example_id` and `offset_mapping`.

        The latter are the characters of the context behind each token, (length, 2), and (-1, -1) for other tokens.
        """
        return self.windows(dataset, tokenizer, max_length, evaluation_columns)

    def windows(
        self,
        dataset: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        columns: Callable[[dict[str, list], BatchEncoding, list[np.ndarray]], dict[str, list]],
    ) -> Dataset:
        """The windows of `dataset`: the model's inputs and what `columns` makes of (examples, encoding, offsets)."""

        def encode(batch: dict[str, list]) -> dict[str, list]:
            encoding = encode_windows(batch, tokenizer, max_length, min(self.stride, max_length // 3))
            offsets = [context_offsets(encoding, window) for window in range(len(encoding["input_ids"]))]
            added = columns(batch, encoding, offsets)
            return {**{name: encoding[name] for name in tokenizer.model_input_names if name in encoding}, **added}

        return dataset.map(encode, batched=True, remove_columns=dataset.column_names)

    def model_kwargs(self) -> dict[str, Any]:
        return {}

    def data_collator(self, tokenizer: PreTrainedTokenizerBase) -> DataCollatorWithPadding:
        """For the columns of `prepare`; a Trainer itself removes the others of `prepare_evaluation`."""
        return DataCollatorWithPadding(tokenizer)

    def metric(self) -> SQuADMetric:
        return SQuADMetric()

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Refused: logits alone do not give the text of an answer.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"Task {self.name!r} is scored on texts: give the Trainer "
            f"compute_metrics=task.metric_function(examples, features), both from the validation split."
        )

    def metric_function(self, examples: Dataset, features: Dataset) -> Callable[[EvalPrediction], dict[str, float]]:
        """Exact match and F1, in percent, of (start, end) logits for `features`, in the order of `features`."""

        def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
            start_logits, end_logits = prediction.predictions[:2]
            return self.score(examples, postprocess(examples, features, start_logits, end_logits))

        return compute_metrics

    def score(self, examples: Dataset, answers: dict[str, list[Answer]]) -> dict[str, float]:
        """Exact match and F1, in percent, of the first of each example's `answers` (from `postprocess`)."""
        predictions = [{"id": key, "prediction_text": best[0].text if best else ""} for key, best in answers.items()]
        references = examples.select_columns(["id", "answers"]).to_list()
        return self.metric().compute(predictions=predictions, references=references)


def position_columns(batch: dict[str, list], encoding: BatchEncoding, offsets: list[np.ndarray]) -> dict[str, list]:
    """`start_positions` and `end_positions` of the first answer, in tokens of each window."""
    positions = []
    for window, example in enumerate(encoding["overflow_to_sample_mapping"]):
        answer = batch["answers"][example]
        start, text = answer["answer_start"][0], answer["text"][0]
        positions.append(answer_tokens(offsets[window], start, start + len(text)) or NO_ANSWER)
    return {"start_positions": [start for start, _ in positions], "end_positions": [end for _, end in positions]}


def evaluation_columns(batch: dict[str, list], encoding: BatchEncoding, offsets: list[np.ndarray]) -> dict[str, list]:
    """The columns of `position_columns`, the id of each window's example and the characters behind its tokens."""
    ids = [batch["id"][example] for example in encoding["overflow_to_sample_mapping"]]
    return {
        **position_columns(batch, encoding, offsets),
        "example_id": ids,
        "offset_mapping": [window.tolist() for window in offsets],
    }


SQUAD = QuestionAnswering(
    name="squad",
    text_columns=("question", "context"),
    label_column="answers",
    label_names=(),
    headline="f1",
    hub=HubDataset("rajpurkar/squad"),
)
