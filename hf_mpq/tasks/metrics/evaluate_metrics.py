"""The metrics as `evaluate.Metric` classes: instantiated directly they load no script and need no network."""

from collections.abc import Mapping, Sequence

import evaluate
import numpy as np
from datasets import Features, List, Value

from .chunks import chunk_scores
from .classification import accuracy, binary_f1, macro_f1, matthews_correlation
from .correlation import pearson, spearman
from .label_sets import label_macro_f1, micro_f1, subset_accuracy
from .ranking import mean_over_queries, ndcg, reciprocal_rank
from .squad import squad_scores

CLASS_SCORES = {
    "accuracy": accuracy,
    "f1": binary_f1,
    "macro_f1": macro_f1,
    "matthews_correlation": matthews_correlation,
}
VALUE_SCORES = {"pearson": pearson, "spearmanr": spearman}
SCORES = CLASS_SCORES | VALUE_SCORES
SET_SCORES = {"micro_f1": micro_f1, "macro_f1": label_macro_f1, "subset_accuracy": subset_accuracy}
RANKING_SCORES = {"ndcg@10": ndcg, "mrr@10": reciprocal_rank}

GLUE_CITATION = "Wang et al. 2019, GLUE: A Multi-Task Benchmark and Analysis Platform for NLU"
MULTI_LABEL_CITATION = "Tsoumakas and Katakis 2007, Multi-Label Classification: An Overview"
SQUAD_CITATION = "Rajpurkar et al. 2016, SQuAD: 100,000+ Questions for Machine Comprehension of Text"
RANKING_CITATION = "Järvelin and Kekäläinen 2002, Cumulated gain-based evaluation of IR techniques"
CONLL_CITATION = "Tjong Kim Sang and Buchholz 2000, Introduction to the CoNLL-2000 Shared Task: Chunking"


class SequenceMetric(evaluate.Metric):
    """Scores of class ids, or of values, chosen by name.

    Args:
        scores: of classes "accuracy", "f1" (of class 1), "macro_f1", "matthews_correlation"; of values "pearson",
            "spearmanr". The names and the meaning are those of the "glue" metric of `evaluate`.

    Raises:
        ValueError: a score is unknown, or some are of classes and some of values.
    """

    def __init__(self, scores: Sequence[str] = ("accuracy",), **options) -> None:
        self.scores = tuple(scores)
        if not (set(scores) <= set(CLASS_SCORES) or set(scores) <= set(VALUE_SCORES)):
            raise ValueError(f"Scores must be among {[*CLASS_SCORES]} or among {[*VALUE_SCORES]}, not {scores}.")
        super().__init__(**{"keep_in_memory": True, **options})

    def _info(self) -> evaluate.MetricInfo:
        value = Value("float64" if set(self.scores) <= set(VALUE_SCORES) else "int64")
        return metric_info("Scores of classes or values.", GLUE_CITATION, value, value)

    def _compute(self, predictions: Sequence, references: Sequence) -> dict[str, float]:
        return {score: SCORES[score](np.asarray(predictions), np.asarray(references)) for score in self.scores}


class LabelSetMetric(evaluate.Metric):
    """Scores of sets of labels, chosen by name; a row has 1 for each label that holds, else 0.

    Args:
        scores: "micro_f1", "macro_f1" (over labels) and "subset_accuracy".

    Raises:
        ValueError: a score is unknown.
    """

    def __init__(self, scores: Sequence[str] = ("micro_f1",), **options) -> None:
        self.scores = tuple(scores)
        if not set(scores) <= set(SET_SCORES):
            raise ValueError(f"Scores of label sets must be among {[*SET_SCORES]}, not {scores}.")
        super().__init__(**{"keep_in_memory": True, **options})

    def _info(self) -> evaluate.MetricInfo:
        held = List(Value("int64"))
        return metric_info("Scores of sets of labels.", MULTI_LABEL_CITATION, held, held)

    def _compute(self, predictions: Sequence, references: Sequence) -> dict[str, float]:
        return {score: SET_SCORES[score](np.asarray(predictions), np.asarray(references)) for score in self.scores}


class RankingMetric(evaluate.Metric):
    """Scores of candidates that are ranked for their queries, chosen by name.

    `predictions` are numbers, `references` ``{"query", "relevance"}``; rows of the same query are ranked together.

    Args:
        scores: "ndcg@10" and "mrr@10", means over the queries whose candidates are not all equally relevant.

    Raises:
        ValueError: a score is unknown.
    """

    def __init__(self, scores: Sequence[str] = ("ndcg@10",), **options) -> None:
        self.scores = tuple(scores)
        if not set(scores) <= set(RANKING_SCORES):
            raise ValueError(f"Scores of rankings must be among {[*RANKING_SCORES]}, not {scores}.")
        super().__init__(**{"keep_in_memory": True, **options})

    def _info(self) -> evaluate.MetricInfo:
        references = {"query": Value("string"), "relevance": Value("float64")}
        return metric_info("Scores of rankings.", RANKING_CITATION, Value("float64"), references)

    def _compute(self, predictions: Sequence, references: Sequence[Mapping]) -> dict[str, float]:
        queries = [row["query"] for row in references]
        given = np.asarray(predictions, float), np.array([row["relevance"] for row in references])
        return {score: mean_over_queries(RANKING_SCORES[score], *given, queries) for score in self.scores}


class SQuADMetric(evaluate.Metric):
    """Exact match and F1 in percent, with the inputs of the "squad" metric of `evaluate`.

    `predictions` are ``{"id", "prediction_text"}``, `references` ``{"id", "answers": {"text", "answer_start"}}``.
    """

    def __init__(self, **options) -> None:
        super().__init__(**{"keep_in_memory": True, **options})

    def _info(self) -> evaluate.MetricInfo:
        answers = {"text": List(Value("string")), "answer_start": List(Value("int32"))}
        return metric_info(
            "Exact match and F1 of SQuAD v1.1, in percent.",
            SQUAD_CITATION,
            {"id": Value("string"), "prediction_text": Value("string")},
            {"id": Value("string"), "answers": answers},
        )

    def _compute(self, predictions: Sequence[Mapping], references: Sequence[Mapping]) -> dict[str, float]:
        return squad_scores(
            {row["id"]: row["prediction_text"] for row in predictions},
            {row["id"]: row["answers"]["text"] for row in references},
        )


class TaggingMetric(evaluate.Metric):
    """Precision, recall and F1 of chunks, and the accuracy of tags; a row is the list of one sentence's tags."""

    def __init__(self, **options) -> None:
        super().__init__(**{"keep_in_memory": True, **options})

    def _info(self) -> evaluate.MetricInfo:
        tags = List(Value("string"))
        return metric_info("Chunk scores as in conlleval.", CONLL_CITATION, tags, tags)

    def _compute(self, predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> dict[str, float]:
        return chunk_scores(predictions, references)


def metric_info(description: str, citation: str, predictions, references) -> evaluate.MetricInfo:
    """The description of a metric whose predictions and references are of the given feature types."""
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description="predictions and references, of equal length.",
        features=Features({"predictions": predictions, "references": references}),
    )
