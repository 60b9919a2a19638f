"""Rows that can be used: those with a text and, where they are scored, with a label."""

from typing import TYPE_CHECKING

from ..console import say
from ..errors import UserError
from .columns import is_list
from .labels import are_labels

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import ChunkedArray


def with_text(data: "Dataset", columns: tuple[str, ...], where: str) -> "Dataset":
    """The rows that have every text, and a word about the others; all rows without `columns`.

    Raises:
        UserError: none has.
    """
    if not columns:
        return data
    table = data.select_columns(list(columns)).with_format("arrow")[:]
    empty = [_without(table.column(name), is_list(data, name)) for name in columns]
    what = "text in " + " or ".join(map(repr, columns))
    return _kept(data, [not any(row) for row in zip(*empty)], what, where, "another --text-column")


def _without(column: "ChunkedArray", lists: bool) -> list[bool]:
    """Whether each row has no text, or one of its words is none."""
    nothing = column.is_null().to_pylist()
    return [row is None or None in row for row in column.to_pylist()] if lists else nothing


def with_label(data: "Dataset", column: str, numbers: bool, where: str, names: tuple[str, ...] = ()) -> "Dataset":
    """The rows that have a label (a number, if `numbers`; else perhaps one of `names`), and a word about the others.

    Raises:
        UserError: none has.
    """
    return _kept(
        data, are_labels(data[column][:], numbers, names), f"label in {column!r}", where, "another --label-column"
    )


def _kept(data: "Dataset", there: list[bool], what: str, where: str, cure: str) -> "Dataset":
    if not any(there):
        raise UserError(f"{where}: none of the {len(there)} rows has a {what}, so give others, or {cure}")
    if all(there):
        return data
    say(f"{where}: left out {there.count(False)} of {len(there)} rows, which have no {what}")
    return data.select([number for number, kept in enumerate(there) if kept])
