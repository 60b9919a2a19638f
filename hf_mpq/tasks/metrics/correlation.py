"""Correlations of predicted with true values. Where one side is constant they are not defined, and 0 here."""

import numpy as np


def pearson(predictions: np.ndarray, references: np.ndarray) -> float:
    """Pearson's correlation of two series of numbers (n,)."""
    predicted, actual = centred(predictions), centred(references)
    norm = np.linalg.norm(predicted) * np.linalg.norm(actual)
    return float(np.clip(predicted @ actual / norm, -1.0, 1.0)) if norm else 0.0


def spearman(predictions: np.ndarray, references: np.ndarray) -> float:
    """Spearman's correlation of two series of numbers (n,): Pearson's of their ranks."""
    return pearson(average_ranks(predictions), average_ranks(references))


def centred(values: np.ndarray) -> np.ndarray:
    """`values` as float64 less their mean; exactly zero where they are all equal."""
    values = np.asarray(values, dtype=np.float64)
    return np.zeros_like(values) if np.all(values == values[0]) else values - values.mean()


def average_ranks(values: np.ndarray) -> np.ndarray:
    """The ranks of `values` from 1 up; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)  # (distinct values,)
    return (last - (counts - 1) / 2)[inverse]
