"""How far a compressed model says what its teacher says, whatever is right.

Xu, Zhou, Ge, Xu, Li, Wei and Wang, Beyond Preserved Accuracy, EMNLP 2021, sections 3.1 and 3.2.
"""

import numpy as np


def label_loyalty(teacher: np.ndarray, student: np.ndarray) -> float:
    """Share of decisions in which both find the same class likeliest; of probabilities `(decisions, classes)`.

    Where one of them has no finite number there is no such class.
    """
    told = np.isfinite(teacher).all(-1) & np.isfinite(student).all(-1)
    return float((told & (teacher.argmax(-1) == student.argmax(-1))).mean())


def probability_loyalty(teacher: np.ndarray, student: np.ndarray) -> float:
    """Mean of `1 - sqrt(JS)` over decisions, JS the Jensen-Shannon divergence in bits: 1 for equal distributions, 0 for
    disjoint ones; of probabilities `(decisions, classes)`."""
    import torch

    from hf_mpq.report.loyalty import divergence

    return float((1 - divergence(torch.from_numpy(teacher), torch.from_numpy(student)).sqrt()).mean())
