"""Scores of sets of labels, of which a text may have several. A ratio without support (0 / 0) is 0.

`predictions` and `references` are 1 where a label holds, else 0: (n, labels), n at least 1.
"""

import numpy as np

from .classification import binary_f1


def micro_f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """The harmonic mean of precision and recall of all labels of all texts together."""
    return binary_f1(np.ravel(predictions), np.ravel(references))


def label_macro_f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """The mean F1 of the labels that hold anywhere, among predictions or references; 0 where none does."""
    predicted, actual = np.asarray(predictions), np.asarray(references)
    held = np.flatnonzero(predicted.any(0) | actual.any(0))
    return float(np.mean([binary_f1(predicted[:, label], actual[:, label]) for label in held])) if len(held) else 0.0


def subset_accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    """The fraction of texts whose whole set of labels is right."""
    return float((np.asarray(predictions) == np.asarray(references)).all(1).mean())
