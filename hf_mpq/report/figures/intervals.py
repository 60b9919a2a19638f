"""How sure a mean over seeds is."""

from collections.abc import Iterable

import numpy as np

DRAWS = 10_000


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean, and half the 95 % bootstrap interval of the mean; of a single value that half is nan."""
    values = np.array(list(values), float)
    if len(values) < 2:
        return float(values.mean()), float("nan")
    draws = np.random.default_rng(0).choice(values, (DRAWS, len(values))).mean(1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(values.mean()), float(high - low) / 2
