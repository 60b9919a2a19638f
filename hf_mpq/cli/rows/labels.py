"""A task made of a user's own labelled rows, scored as the model's head says."""

from collections.abc import Hashable, Mapping
from math import isfinite
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig

    from ...tasks import Task

SHOWN = 3
"""Labels that an error quotes."""


def is_tagger(config: "PretrainedConfig") -> bool:
    """Whether the model labels words."""
    return bool(config.architectures) and config.architectures[0].endswith("ForTokenClassification")


def task_of_labels(texts: tuple[str, ...], label: str, config: "PretrainedConfig") -> "Task":
    """Accuracy and macro F1; micro F1 and others for a head of several labels at once; for a head of one output
    Spearman's and Pearson's correlation; F1 of chunks for words, or accuracy where their labels are no chunks'."""
    from ...nn.heads import has_several_labels
    from ...tasks import MultiLabelClassification, SequenceClassification, TokenClassification

    names = tuple(config.id2label[number] for number in sorted(config.id2label))
    if is_tagger(config):
        chunks = all(name == "O" or name[:2] in ("B-", "I-") for name in names)
        return TokenClassification(
            name="data",
            text_columns=texts,
            label_column=label,
            label_names=names,
            headline="f1" if chunks else "accuracy",
        )
    if has_several_labels(config):
        return MultiLabelClassification(
            name="data", text_columns=texts, label_column=label, label_names=names, headline="micro_f1"
        )
    regression = config.num_labels == 1
    names = () if regression else names
    scores = ("spearmanr", "pearson") if regression else ("accuracy", "macro_f1")
    return SequenceClassification(
        name="data",
        text_columns=texts,
        label_column=label,
        label_names=names,
        headline=scores[0],
        scores=scores,
        regression=regression,
    )


def with_ids(data: "Dataset", label: str, names: tuple[str, ...]) -> "Dataset":
    """The rows with the model's ids in the column `label`; without names (regression) as numbers.

    Raises:
        UserError: a label is none of the model's, or no number.
    """
    values = data[label][:]
    found = ids_of(values, data.features[label], label, names) if names else _numbers(values, label)
    return data.remove_columns(label).add_column(label, found)


def ids_of(
    values: list, feature, label: str, names: tuple[str, ...], extra: Mapping[int, int] | None = None
) -> list[int]:
    """The model's ids of labels that are names or numbers; those of a `ClassLabel` feature by their names. `extra` are
    further numbers that are known.

    Raises:
        UserError: a label is none of the model's.
    """
    from datasets import ClassLabel

    if isinstance(feature, ClassLabel) and set(feature.names) <= set(names):
        values = [feature.names[value] for value in values]
    known = {name: number for number, name in enumerate(names)} | {number: number for number in range(len(names))}
    known |= extra or {}
    unknown = sorted({str(value) for value in values if not isinstance(value, Hashable) or value not in known})
    if unknown:
        raise UserError(
            f"the labels {unknown[:SHOWN]} are none of the model's {len(names)} labels, such as "
            f"{list(names[:SHOWN])}: write its labels or their numbers into the column {label!r}"
        )
    return [known[value] for value in values]


def _numbers(values: list, label: str) -> list[float]:
    wrong = sorted({str(value) for value in values if not _is_number(value)})
    if wrong:
        raise UserError(
            f"the labels {wrong[:SHOWN]} are no numbers, and the model gives one: write numbers into the "
            f"column {label!r}, or give another --label-column"
        )
    return [float(value) for value in values]


def _is_number(value) -> bool:
    try:
        return isfinite(float(value))
    except (TypeError, ValueError):
        return False


def are_labels(values: list, numbers: bool) -> list[bool]:
    """Which values are labels: none that is empty, nor the -1 that the Hub gives to rows without one.

    Of `numbers` -1 may be one, unless it is the only one.
    """
    given = [value is not None and value != "" and value == value for value in values]
    if numbers and any(there and value != -1 for there, value in zip(given, values)):
        return given
    return [there and value != -1 for there, value in zip(given, values)]
