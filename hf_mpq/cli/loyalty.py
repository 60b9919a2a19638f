"""How far a compressed model says what its teacher says, whatever is right.

Xu, Zhou, Ge, Xu, Li, Wei and Wang, Beyond Preserved Accuracy, EMNLP 2021, sections 3.1 and 3.2.
"""

import numpy as np
from scipy.special import rel_entr


def label_loyalty(teacher: np.ndarray, student: np.ndarray) -> float:
    """Share of decisions in which both find the same class likeliest; of probabilities `(decisions, classes)`."""
    return float((teacher.argmax(-1) == student.argmax(-1)).mean())


def probability_loyalty(teacher: np.ndarray, student: np.ndarray) -> float:
    """Mean of `1 - sqrt(JS)` over decisions, JS the Jensen-Shannon divergence in bits: 1 for equal distributions, 0 for
    disjoint ones; of probabilities `(decisions, classes)`."""
    middle = (teacher + student) / 2
    divergence = (rel_entr(teacher, middle) + rel_entr(student, middle)).sum(-1) / 2 / np.log(2)
    return float((1 - np.sqrt(divergence.clip(0, 1))).mean())
