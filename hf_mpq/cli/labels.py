"""A task made of a user's own labelled rows, scored as the model's head says."""

from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PretrainedConfig

    from hf_mpq.tasks import SequenceClassification

SHOWN = 3
"""Labels that an error quotes."""


def task_of_labels(splits: "DatasetDict", texts: tuple[str, ...], label: str, config: "PretrainedConfig"
                   ) -> "tuple[SequenceClassification, DatasetDict]":  # fmt: skip
    """Accuracy and macro F1, or for a head of one output Spearman's and Pearson's correlation; labels become ids.

    Raises:
        UserError: a label is none of the model's.
    """
    from datasets import DatasetDict

    from hf_mpq.tasks import SequenceClassification

    regression = config.num_labels == 1
    names = () if regression else tuple(config.id2label[number] for number in sorted(config.id2label))
    scores = ("spearmanr", "pearson") if regression else ("accuracy", "macro_f1")
    task = SequenceClassification(name="data", text_columns=texts, label_column=label, label_names=names,
                                  headline=scores[0], scores=scores, regression=regression)  # fmt: skip
    parts = {name: with_ids(data, label, names) for name, data in splits.items()}
    return task, DatasetDict(parts)


def with_ids(data: "Dataset", label: str, names: tuple[str, ...]) -> "Dataset":
    """The rows with the model's ids in the column `label`; without names (regression) as numbers."""
    from datasets import ClassLabel

    feature, values = data.features[label], data[label][:]
    if not names:
        return data.remove_columns(label).add_column(label, [float(value) for value in values])
    if isinstance(feature, ClassLabel) and set(feature.names) <= set(names):
        values = [feature.names[value] for value in values]
    known = {name: number for number, name in enumerate(names)} | {number: number for number in range(len(names))}
    unknown = sorted({str(value) for value in values if value not in known})
    if unknown:
        raise UserError(f"the labels {unknown[:SHOWN]} are none of the model's {len(names)} labels, such as "
                        f"{list(names[:SHOWN])}: write its labels or their numbers into the column {label!r}")
    return data.remove_columns(label).add_column(label, [known[value] for value in values])
