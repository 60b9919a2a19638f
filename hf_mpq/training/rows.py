"""Parts of a training set, whatever kind of data set it is."""

from itertools import islice
from typing import Any

from datasets import Dataset as TableDataset
from torch.utils.data import Subset

from .sampling import slices


def split_rows(rows: Any, count: int, seed: int) -> tuple[Any, Any]:
    """The rest, and `count` random rows (at most half) of a data set; without a length all, and the first ones."""
    if not hasattr(rows, "__len__"):
        return rows, list(islice(rows, count))
    rest, chosen = slices(len(rows), min(count, max(len(rows) // 2, 1)), seed)
    take = rows.select if isinstance(rows, TableDataset) else lambda indices: Subset(rows, indices)
    return take(rest), take(chosen)
