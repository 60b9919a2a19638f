"""Parts of a training set, whatever kind of data set it is."""

from itertools import islice
from typing import Any

from datasets import Dataset as TableDataset
from torch.utils.data import Subset

from .sampling import slices


def split_rows(rows: Any, count: int, seed: int, skip: int = 0) -> tuple[Any, Any]:
    """The rest, and `count` random rows (at most half) of a data set.

    Args:
        rows: without a length, the rest is all of it, and the rows are its first ones.
        seed: of the choice.
        skip: the rows are none of those that `split_rows(rows, skip, seed)` takes, unless a data set without a length
            ends with these.
    """
    if not hasattr(rows, "__len__"):
        first = list(islice(rows, skip + count))
        return rows, first[skip:] or first
    if skip:
        rows, _ = split_rows(rows, skip, seed)
    rest, chosen = slices(len(rows), min(count, max(len(rows) // 2, 1)), seed)
    take = rows.select if isinstance(rows, TableDataset) else lambda indices: Subset(rows, indices)
    return take(rest), take(chosen)
