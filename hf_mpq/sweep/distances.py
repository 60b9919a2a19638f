"""How far a model's outputs are from those of the float model, for rows of one label."""

import numpy as np
from scipy.special import log_softmax


def divergence(reference: np.ndarray, logits: np.ndarray) -> float:
    """Mean of `divergences`."""
    return float(divergences(reference, logits).mean())


def divergences(reference: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Each row's KL divergence from the reference's to the other's class probabilities; of one output half its squared
    difference.

    Args:
        reference, logits: `(rows, classes)`.

    Returns:
        `(rows,)`, in nats.
    """
    reference, logits = reference.astype(np.float64), logits.astype(np.float64)
    if reference.shape[1] == 1:
        return ((reference - logits) ** 2)[:, 0] / 2
    first, second = log_softmax(reference, axis=1), log_softmax(logits, axis=1)
    return (np.exp(first) * (first - second)).sum(1)


def agreement(reference: np.ndarray, logits: np.ndarray) -> float:
    """Share of rows with the same label; of one output, of those within a tenth."""
    if reference.shape[1] == 1:
        return float((np.abs(reference - logits) < 0.1).mean())
    return float((reference.argmax(1) == logits.argmax(1)).mean())
