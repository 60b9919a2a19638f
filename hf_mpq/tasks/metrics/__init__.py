"""Metrics in plain numpy, and the same as `evaluate.Metric` classes that need no network."""

from .chunks import chunk_scores, chunks
from .classification import accuracy, binary_f1, macro_f1, matthews_correlation
from .correlation import pearson, spearman
from .evaluate_metrics import LabelSetMetric, RankingMetric, SequenceMetric, SQuADMetric, TaggingMetric
from .label_sets import label_macro_f1, micro_f1, subset_accuracy
from .ranking import mean_over_queries, ndcg, reciprocal_rank
from .squad import exact_match, normalize_answer, squad_scores, token_f1

__all__ = [
    "LabelSetMetric",
    "RankingMetric",
    "SQuADMetric",
    "SequenceMetric",
    "TaggingMetric",
    "accuracy",
    "binary_f1",
    "chunk_scores",
    "chunks",
    "exact_match",
    "label_macro_f1",
    "macro_f1",
    "matthews_correlation",
    "mean_over_queries",
    "micro_f1",
    "ndcg",
    "normalize_answer",
    "pearson",
    "reciprocal_rank",
    "spearman",
    "squad_scores",
    "subset_accuracy",
    "token_f1",
]
