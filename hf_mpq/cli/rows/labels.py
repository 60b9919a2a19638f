"""A task made of a user's own labelled rows, scored as the model's head says."""

import re
from collections.abc import Hashable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING

from ..console import say
from ..errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig

    from ...tasks import Task

SHOWN = 3
"""Labels that an error quotes."""
_UNNAMED = re.compile(r"LABEL_\d+")
_NOTHING = ("", "na", "n/a", "nan", "none", "null")
"""How tables say that there is no label, unless the model has one that is called so."""


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

    if isinstance(feature, ClassLabel):
        values = _by_name(values, feature.names, names, label)
    known = _known(names) | (extra or {})
    unknown = sorted({str(value) for value in values if not isinstance(value, Hashable) or value not in known})
    if unknown:
        raise UserError(
            f"the labels {unknown[:SHOWN]} are none of the model's {len(names)} labels, such as "
            f"{list(names[:SHOWN])}: write its labels or their numbers into the column {label!r}"
        )
    return [known[value] for value in values]


def _by_name(values: list, given: Sequence[str], names: tuple[str, ...], label: str) -> list:
    """Numbers of a `ClassLabel` as the model's names; as they are, and a word about it, where it has other names."""
    own = {name.casefold(): name for name in names}
    if {name.casefold() for name in given} <= own.keys():
        return [own[given[value].casefold()] if 0 <= value < len(given) else value for value in values]
    if not all(map(_UNNAMED.fullmatch, names)):
        say(
            f"the labels of {label!r} are called {', '.join(given[:SHOWN])}, and those of the model "
            f"{', '.join(names[:SHOWN])}: they are taken for each other in this order"
        )
    return values


def _known(names: tuple[str, ...]) -> dict[Hashable, int]:
    """What may stand for each label: its name, or its number; names that are numbers themselves are names."""
    if all(name.isdecimal() for name in names):
        return {form: number for number, name in enumerate(names) for form in (name, int(name))}
    numbers = {form: number for number in range(len(names)) for form in (number, str(number))}
    return numbers | {name: number for number, name in enumerate(names)}


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


def are_labels(values: list, numbers: bool, names: tuple[str, ...] = ()) -> list[bool]:
    """Which values are labels: none that is empty, nor the -1 that the Hub gives to rows without one.

    Args:
        numbers: -1 may be one then, unless it is the only one.
        names: of the model's labels.
    """
    nothing = {value for value in values if isinstance(value, str) and value.casefold() in _NOTHING} - {*names}
    given = [
        value is not None and value == value and not (isinstance(value, str) and value in nothing) for value in values
    ]
    if numbers and any(there and value != -1 for there, value in zip(given, values)):
        return given
    return [there and value != -1 for there, value in zip(given, values)]
