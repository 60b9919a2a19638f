"""Checks that loaded data have the columns and the labels of a task."""

from typing import Any

from datasets import ClassLabel, Dataset, List


def conform(dataset: Dataset, features: dict[str, Any], task: str) -> Dataset:
    """`dataset` with its columns cast to `features`; a feature of None stands for any type.

    Raises:
        ValueError: a column is missing, or it names other labels than its feature does.
    """
    missing = sorted(set(features) - set(dataset.column_names))
    if missing:
        raise ValueError(f"The data of task {task!r} lack the columns {missing}; they have {dataset.column_names}.")
    for column, feature in features.items():
        if feature is not None and dataset.features[column] != feature:
            check_label_names(dataset.features[column], feature, column, task)
            dataset = dataset.cast_column(column, feature)
    return dataset


def check_label_names(found: Any, expected: Any, column: str, task: str) -> None:
    """Refuses labels whose ids mean something else than in `expected`; labels without names pass.

    Raises:
        ValueError: the names differ.
    """
    found_names, expected_names = label_names(found), label_names(expected)
    if found_names is not None and found_names != expected_names:
        raise ValueError(
            f"Column {column!r} of task {task!r} has the labels {found_names}, not {expected_names}; "
            f"reorder them, or store the labels as text."
        )


def label_names(feature: Any) -> list[str] | None:
    """The names of a class label or of a list of them, None for any other feature."""
    if isinstance(feature, List):
        return label_names(feature.feature)
    return feature.names if isinstance(feature, ClassLabel) else None
