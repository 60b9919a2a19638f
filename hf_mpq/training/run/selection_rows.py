"""Parts of a training set, whatever kind of data set it is."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from datasets import Dataset as TableDataset
from datasets import IterableDataset as TableStream
from torch.utils.data import IterableDataset, Subset

from ..stage.sampling import slices


def split_rows(rows: Any, count: int, seed: int) -> tuple[Any, Any]:
    """The rest, and `count` random rows (at most half) of a data set.

    Args:
        rows: without a length, the rest is all of it, and the rows are its first ones.
        seed: of the choice.
    """
    if not hasattr(rows, "__len__"):
        return rows, list(islice(rows, count))
    return _parts(rows, min(count, max(len(rows) // 2, 1)), seed)


def keep_rows(rows: Any, count: int, seed: int, least: int) -> tuple[Any, Any]:
    """The rest, and `count` random rows that are in no way in it: at most a quarter of the data set, and so few that
    the rest has `least` rows; maybe none.

    Args:
        rows: without a length, the first ones are kept, and the rest goes on after them.
        seed: of the choice.
    """
    if not hasattr(rows, "__len__"):
        return _after(rows, count), list(islice(rows, count))
    return _parts(rows, max(min(count, len(rows) // 4, len(rows) - least), 0), seed)


def _parts(rows: Any, count: int, seed: int) -> tuple[Any, Any]:
    take = rows.select if isinstance(rows, TableDataset) else lambda indices: Subset(rows, indices)
    rest, chosen = slices(len(rows), count, seed)
    return take(rest), take(chosen)


def _after(rows: Any, count: int) -> Any:
    return rows.skip(count) if isinstance(rows, TableStream) else _Later(rows, count)


class _Later(IterableDataset):
    """A stream without its first rows; each worker of a loader leaves out as many of its own."""

    def __init__(self, rows: Any, skip: int):
        self.rows, self.skip = rows, skip

    def __iter__(self) -> Iterator:
        return islice(iter(self.rows), self.skip, None)
