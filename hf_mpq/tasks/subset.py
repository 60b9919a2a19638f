"""A smaller data set that is the same every time."""

from datasets import Dataset


def subset(dataset: Dataset, n: int, seed: int = 0) -> Dataset:
    """`n` rows of `dataset` drawn without replacement, a function of `seed` only; all rows where there are fewer.

    Raises:
        ValueError: `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"A subset needs at least one row, not {n}.")
    return dataset.shuffle(seed=seed).select(range(min(n, len(dataset))))
