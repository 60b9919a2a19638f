"""Columns whose cells are lists of labels: any number for a text, or one for each word."""

from typing import TYPE_CHECKING

from .labels import ids_of

if TYPE_CHECKING:
    from datasets import Dataset


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


def _ids_of_lists(data: "Dataset", label: str, values: list[list], names: tuple[str, ...]) -> list[list[int]]:
    feature = data.features[label]
    flat = iter(ids_of([one for row in values for one in row], getattr(feature, "feature", feature), label, names))
    return [[next(flat) for _ in row] for row in values]
