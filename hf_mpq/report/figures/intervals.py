"""How sure a mean over seeds is."""

from collections.abc import Iterable, Sequence

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


def paired(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Mean of `first - second` and its 95 % bootstrap interval over rows and seeds.

    Args:
        first, second: one array of rows for each seed, in the same order.
    """
    difference, random = np.stack(first) - np.stack(second), np.random.default_rng(0)
    seeds, rows = difference.shape
    draws = [
        difference[random.integers(0, seeds, seeds)][:, random.integers(0, rows, rows)].mean()
        for _ in range(DRAWS // 10)
    ]
    return float(difference.mean()), *map(float, np.quantile(draws, (0.025, 0.975)))
