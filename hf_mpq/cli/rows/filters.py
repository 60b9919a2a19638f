"""Rows that can be used: those with a text and, where they are scored, with a label."""

from typing import TYPE_CHECKING

from ..console import say
from ..errors import UserError
from .labels import are_labels

if TYPE_CHECKING:
    from datasets import Dataset


def with_text(data: "Dataset", columns: tuple[str, ...], where: str) -> "Dataset":
    """The rows that have every text, and a word about the others; all rows without `columns`.

    Raises:
        UserError: none has.
    """
    if not columns:
        return data
    table = data.select_columns(list(columns)).with_format("arrow")[:]
    empty = [table.column(name).is_null().to_pylist() for name in columns]
    what = "text in " + " or ".join(map(repr, columns))
    return _kept(data, [not any(row) for row in zip(*empty)], what, where, "another --text-column")


def with_label(data: "Dataset", column: str, numbers: bool, where: str) -> "Dataset":
    """The rows that have a label (a number, if `numbers`), and a word about the others.

    Raises:
        UserError: none has.
    """
    return _kept(data, are_labels(data[column][:], numbers), f"label in {column!r}", where, "another --label-column")


def _kept(data: "Dataset", there: list[bool], what: str, where: str, cure: str) -> "Dataset":
    if not any(there):
        raise UserError(f"{where}: none of the {len(there)} rows has a {what}, so give others, or {cure}")
    if all(there):
        return data
    say(f"{where}: left out {there.count(False)} of {len(there)} rows, which have no {what}")
    return data.select([number for number, kept in enumerate(there) if kept])
