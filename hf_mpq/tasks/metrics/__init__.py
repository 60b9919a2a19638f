"""Metrics in plain numpy, and the same as `evaluate.Metric` classes that need no network."""

from hf_mpq.tasks.metrics.chunks import chunk_scores, chunks
from hf_mpq.tasks.metrics.classification import accuracy, binary_f1, macro_f1, matthews_correlation
from hf_mpq.tasks.metrics.correlation import pearson, spearman
from hf_mpq.tasks.metrics.evaluate_metrics import LabelSetMetric, SequenceMetric, SQuADMetric, TaggingMetric
from hf_mpq.tasks.metrics.label_sets import label_macro_f1, micro_f1, subset_accuracy
from hf_mpq.tasks.metrics.squad import exact_match, normalize_answer, squad_scores, token_f1

__all__ = [
    "LabelSetMetric", "SQuADMetric", "SequenceMetric", "TaggingMetric", "accuracy", "binary_f1", "chunk_scores",
    "chunks", "exact_match", "label_macro_f1", "macro_f1", "matthews_correlation", "micro_f1", "normalize_answer",
    "pearson", "spearman", "squad_scores", "subset_accuracy", "token_f1",
]
