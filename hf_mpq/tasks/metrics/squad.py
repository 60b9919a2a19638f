"""Exact match and F1 of answers, as in the official evaluation script of SQuAD v1.1 (Rajpurkar et al. 2016)."""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """`text` in lower case without punctuation, articles and superfluous white space."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(prediction: str, answer: str) -> float:
    """1 where both normalize to the same text, else 0."""
    return float(normalize_answer(prediction) == normalize_answer(answer))


def token_f1(prediction: str, answer: str) -> float:
    """F1 of the bags of normalized tokens; 0 where they share none, as in the script, even if both are empty."""
    predicted, actual = normalize_answer(prediction).split(), normalize_answer(answer).split()
    common = sum((Counter(predicted) & Counter(actual)).values())
    return 2 * common / (len(predicted) + len(actual)) if common else 0.0


def squad_scores(predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """ "exact_match" and "f1" in percent.

    Each prediction (id to text) is compared with every answer (id to texts) and counts with the best; a question
    without a prediction counts 0.

    Raises:
        ValueError: there are no questions, or one of them has no answer.
    """
    unanswerable = [key for key, texts in answers.items() if not texts]
    if unanswerable or not answers:
        raise ValueError(f"SQuAD v1.1 needs questions, and an answer to each; without one: {unanswerable[:5]}.")
    return {
        "exact_match": mean_best(exact_match, predictions, answers),
        "f1": mean_best(token_f1, predictions, answers),
    }


def mean_best(
    score: Callable[[str, str], float], predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]
) -> float:
    """The mean, in percent, of each question's best `score` over its answers."""
    best = [
        max(score(predictions[key], text) for text in texts) for key, texts in answers.items() if key in predictions
    ]
    return 100.0 * sum(best) / len(answers)
