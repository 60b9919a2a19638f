"""Columns whose cells are lists of labels: any number for a text, or one for each word."""

from typing import TYPE_CHECKING

from ..errors import UserError
from .labels import ids_of

if TYPE_CHECKING:
    from datasets import Dataset

IGNORED = -100
"""Label of words that count for nothing, as everywhere in transformers."""


def with_label_sets(data: "Dataset", label: str, names: tuple[str, ...]) -> "Dataset":
    """The rows with 1 for each of the model's labels that holds, else 0, in the column `label`.

    Cells are such lists already, or lists of labels (names or numbers), or one label.

    Raises:
        UserError: a label is none of the model's.
    """
    values = [value if isinstance(value, list) else [value] for value in data[label][:]]
    if not _are_indicators(values, len(names)):
        ids = _ids_of_lists(data, label, values, names)
        values = [[float(number in row) for number in range(len(names))] for row in map(set, ids)]
    values = [[float(one) for one in row] for row in values]
    return data.remove_columns(label).add_column(label, values)


def _are_indicators(values: list[list], width: int) -> bool:
    """Whether every cell has a 0 or 1 for each label."""
    return all(len(row) == width and all(one in (0, 1) for one in row) for row in values)


def with_tag_ids(data: "Dataset", label: str, names: tuple[str, ...], words: str) -> "Dataset":
    """The rows with the model's id for each word in the column `label`; -100 stays what counts for nothing.

    Raises:
        UserError: a label is none of the model's, or a row has another number of labels than of words.
    """
    tags = data[label][:]
    wrong = [row for row, (text, own) in enumerate(zip(data[words][:], tags)) if not _fit(text, own)]
    if wrong:
        raise UserError(
            f"{len(wrong)} rows, first number {wrong[0] + 1}, have not one label in {label!r} for each "
            f"word in {words!r}: give lists of the same length, or other --text-column and --label-column"
        )
    ids = _ids_of_lists(data, label, tags, names, {IGNORED: IGNORED})
    return data.remove_columns(label).add_column(label, ids)


def _fit(words, tags) -> bool:
    return isinstance(words, list) and isinstance(tags, list) and len(words) == len(tags)


def _ids_of_lists(data: "Dataset", label: str, values: list[list], names: tuple[str, ...], extra=None) -> list[list]:
    feature = data.features[label]
    flat = [one for row in values for one in row]
    ids = iter(ids_of(flat, getattr(feature, "feature", feature), label, names, extra))
    return [[next(ids) for _ in row] for row in values]
