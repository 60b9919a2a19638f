"""Scores of predicted classes. A ratio without support (0 / 0) is 0, as in scikit-learn.

`predictions` and `references` are class ids (n,), n at least 1.
"""

import numpy as np


def accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    """The fraction of predictions that are right."""
    return float(np.mean(np.asarray(predictions) == np.asarray(references)))


def binary_f1(predictions: np.ndarray, references: np.ndarray, positive: int = 1) -> float:
    """The harmonic mean of precision and recall of the class `positive`."""
    predicted, actual = np.asarray(predictions) == positive, np.asarray(references) == positive
    total = predicted.sum() + actual.sum()
    return float(2 * (predicted & actual).sum() / total) if total else 0.0


def macro_f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """The mean F1 of the classes that occur among predictions or references."""
    classes = np.union1d(predictions, references)
    return float(np.mean([binary_f1(predictions, references, positive) for positive in classes]))


def matthews_correlation(predictions: np.ndarray, references: np.ndarray) -> float:
    """Matthews' correlation, for any number of classes (Gorodkin 2004, eq. 8); 0 where either side is constant."""
    matrix = confusion_matrix(predictions, references)
    n, actual, predicted = matrix.sum(), matrix.sum(axis=1), matrix.sum(axis=0)
    covariance = n * np.trace(matrix) - actual @ predicted
    variances = (n**2 - predicted @ predicted) * (n**2 - actual @ actual)
    return float(covariance / np.sqrt(variances)) if variances else 0.0


def confusion_matrix(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """How often each pair occurs, as float64: references in rows, predictions in columns."""
    classes, ids = np.unique(np.concatenate([references, predictions]), return_inverse=True)
    actual, predicted = np.split(ids, 2)
    pairs = np.bincount(actual * len(classes) + predicted, minlength=len(classes) ** 2)
    return pairs.reshape(len(classes), len(classes)).astype(np.float64)  # (classes, classes)
