"""From start and end logits to the n best answers of each question (Devlin et al. 2019, section 4.2)."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from datasets import Dataset


@dataclass(frozen=True)
class Answer:
    """A span of the context: its text, its characters, its summed logits and its probability among the n best."""

    text: str
    start: int
    end: int
    score: float
    probability: float


def postprocess(
    examples: Dataset,
    features: Dataset,
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    n_best: int = 20,
    max_answer_length: int = 30,
) -> dict[str, list[Answer]]:
    """The n best answers of each example by id, the best first; none where no span is possible.

    Args:
        examples: the questions.
        features: their windows, from `QuestionAnswering.prepare_evaluation`.
        start_logits: (windows, length), padded as one likes.
        end_logits: of the same shape.
        n_best: how many starts and ends to combine in a window, and how many answers to keep.
        max_answer_length: in tokens.

    Raises:
        ValueError: there are not as many logits as windows.
    """
    if not len(features) == len(start_logits) == len(end_logits):
        raise ValueError(f"{len(features)} windows, but {len(start_logits)} start and {len(end_logits)} end logits.")
    spans = defaultdict(list)
    windows = features.select_columns(["example_id", "offset_mapping"])
    for window, start, end in zip(windows, start_logits, end_logits, strict=True):
        offsets = np.array(window["offset_mapping"])
        spans[window["example_id"]] += best_spans(offsets, start, end, n_best, max_answer_length)
    return {
        key: best_answers(context, spans[key], n_best)
        for key, context in zip(examples["id"], examples["context"], strict=True)
    }


def best_spans(
    offsets: np.ndarray, start: np.ndarray, end: np.ndarray, n_best: int, max_answer_length: int
) -> list[tuple[float, int, int]]:
    """The possible spans of the best starts and ends as ``(score, first character, character after the last)``."""
    context = np.flatnonzero(offsets[:, 0] >= 0)
    first, last = best_positions(start, context, n_best), best_positions(end, context, n_best)
    scores = np.add.outer(start[first], end[last])  # (starts, ends)
    lengths = last[None, :] - first[:, None] + 1
    rows, columns = np.nonzero((lengths >= 1) & (lengths <= max_answer_length))
    starts, ends = offsets[first[rows], 0], offsets[last[columns], 1]
    return list(zip(scores[rows, columns].tolist(), starts.tolist(), ends.tolist()))


def best_positions(logits: np.ndarray, candidates: np.ndarray, n_best: int) -> np.ndarray:
    """Those of the positions `candidates` with the `n_best` largest logits."""
    return candidates[np.argsort(-logits[candidates], kind="stable")[:n_best]]


def best_answers(context: str, spans: list[tuple[float, int, int]], n_best: int) -> list[Answer]:
    """The `n_best` answers among `spans`, the best first; a span that two windows share counts once."""
    best = {}
    for score, start, end in sorted(spans, key=lambda span: -span[0]):
        best.setdefault((start, end), score)
    kept = list(best.items())[:n_best]
    probabilities = softmax(np.array([score for _, score in kept]))
    return [
        Answer(context[start:end], start, end, score, float(probability))
        for ((start, end), score), probability in zip(kept, probabilities, strict=True)
    ]


def softmax(scores: np.ndarray) -> np.ndarray:
    """The probabilities of `scores` (n,); n may be 0."""
    exponentials = np.exp(scores - scores.max(initial=-np.inf))
    return exponentials / exponentials.sum()
