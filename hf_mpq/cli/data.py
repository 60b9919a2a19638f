"""Examples from whatever a user has: a task by name, files, a folder, the Hub."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError, one_line
from .examples import Examples
from .label_lists import with_label_sets
from .labels import task_of_labels, with_ids

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PretrainedConfig

    from hf_mpq.tasks import Task

READERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".txt": "text"}
PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"),
         ("question", "context"), ("query", "passage"))  # fmt: skip
SINGLES = ("text", "sentence", "content", "review", "document", "query")
NO_CONFIGURATION = ("Config name is missing", "BuilderConfig", "Available configs")
"""What datasets says where a configuration is to be named, or another one."""


@dataclass(frozen=True)
class Source:
    """What the options say: `--data`, `--data-dir`, `--task`, `--text-column`, `--label-column`, `--data-config`."""

    name: str
    data_dir: Path | None = None
    task: str | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    config: str | None = None


def open_data(source: Source, config: "PretrainedConfig") -> Examples:
    """The examples, with the task that scores them for a model of this config, if they have a column of labels.

    Raises:
        UserError: they are not found, or it is not clear what is text and what is a label.
    """
    from hf_mpq.tasks import TASKS, MultiLabelClassification, get_task

    path = Path(source.name)
    if source.config is not None and (source.name in TASKS or path.is_file() or _is_saved(path)):
        raise UserError(f"{source.name} has no configurations: leave out --data-config {source.config}")
    if source.name in TASKS:
        return _of_task(get_task(source.name), source, config)
    splits = _splits(source.name, source.config)
    if source.task is not None:
        return _as_task(get_task(source.task), source, splits, config)
    columns = next(iter(splits.values())).column_names
    label = _label_column(source, columns)
    texts = () if "input_ids" in columns else text_columns(source, next(iter(splits.values())), label)
    if label is None or not texts:
        return Examples(source.name, splits, texts)
    task = task_of_labels(texts, label, config)
    convert = with_label_sets if isinstance(task, MultiLabelClassification) else with_ids
    return Examples(source.name, splits, texts, task, partial(convert, label=label, names=task.label_names))


def _of_task(task: "Task", source: Source, config: "PretrainedConfig") -> Examples:
    try:
        splits = task.load(source.data_dir)
    except OSError as error:
        raise UserError(one_line(error).replace("data_dir=", "--data-dir")) from error
    return _as_task(task, source, splits, config)


def _as_task(task: "Task", source: Source, splits: "DatasetDict", config: "PretrainedConfig") -> Examples:
    from hf_mpq.tasks.columns import conform

    for data in splits.values():
        conform(data, dict.fromkeys(task.text_columns), task.name)
    as_ids = partial(_with_ids_of_task, task=task, config=config)
    return Examples(source.name, splits, task.text_columns, task, as_ids)


def _with_ids_of_task(data: "Dataset", task: "Task", config: "PretrainedConfig") -> "Dataset":
    """The rows with the task's ids, if the model's labels are the task's, in its order."""
    from hf_mpq.tasks.columns import conform

    own = [config.id2label[number].casefold() for number in sorted(config.id2label)]
    wanted = [label.casefold() for label in task.label_names]
    if own != wanted and sorted(own) == sorted(wanted):
        raise UserError(f"the model's labels are {own}, and {task.name!r} has them in the order {wanted}: give the "
                        f"data as a file whose label column holds the names")  # fmt: skip
    return conform(data, task.features(), task.name)


def _splits(name: str, config: str | None) -> "DatasetDict":
    """The data of a file, a folder or the Hub, the latter two in a configuration of that name."""
    from datasets import load_dataset, load_from_disk
    from datasets.exceptions import DatasetsError

    path = Path(name)
    try:
        if path.is_file():
            return _of_file(path)
        if path.is_dir():
            return _as_splits(load_from_disk(str(path)) if _is_saved(path) else load_dataset(str(path), config))
        if name.count("/") == 1 and not path.suffix:
            return _as_splits(load_dataset(name, config))
    except (DatasetsError, OSError, ValueError) as error:
        reason = one_line(error).partition(" Example of usage")[0]
        cure = ": name one with --data-config" if any(words in reason for words in NO_CONFIGURATION) else ""
        raise UserError(f"cannot read the data {name!r}: {reason}{cure}") from error
    raise UserError(f"there is no task, file or folder {name!r}: give one of the tasks {_tasks()}, or a file "
                    f"({', '.join(sorted(READERS))})")  # fmt: skip


def _is_saved(path: Path) -> bool:
    """Whether it is a folder of `save_to_disk`."""
    return any((path / file).is_file() for file in ("dataset_dict.json", "state.json"))


def _tasks() -> str:
    from hf_mpq.tasks import TASKS

    return ", ".join(sorted(TASKS))


def _of_file(path: Path) -> "DatasetDict":
    from datasets import load_dataset

    if path.suffix not in READERS:
        raise UserError(f"{path} is of no known kind: give a file that ends in {', '.join(sorted(READERS))}")
    options = {"sep": "\t"} if path.suffix == ".tsv" else {}
    return load_dataset(READERS[path.suffix], data_files={"train": str(path)}, **options)


def _as_splits(data) -> "DatasetDict":
    from datasets import Dataset, DatasetDict

    return DatasetDict({"train": data}) if isinstance(data, Dataset) else data


def _label_column(source: Source, columns: list[str]) -> str | None:
    if source.label_column is not None and source.label_column not in columns:
        raise UserError(f"there is no column {source.label_column!r} in {source.name}, which has {columns}: give "
                        f"another --label-column")  # fmt: skip
    return source.label_column or next((name for name in ("label", "labels") if name in columns), None)


def text_columns(source: Source, data: "Dataset", label: str | None) -> tuple[str, ...]:
    """The columns that were named; else those that are called so; else the only column of text.

    Raises:
        UserError: a column is not there, or it is not clear which one is meant.
    """
    unknown = sorted(set(source.text_columns) - set(data.column_names))
    if unknown:
        raise UserError(f"there is no column {unknown[0]!r} in {source.name}, which has {data.column_names}: give "
                        f"another --text-column")  # fmt: skip
    if source.text_columns:
        return source.text_columns
    texts = [name for name, feature in data.features.items() if getattr(feature, "dtype", None) in
             ("string", "large_string") and name != label]  # fmt: skip
    pair = next((pair for pair in PAIRS if set(pair) <= set(texts)), None)
    single = next((name for name in SINGLES if name in texts), texts[0] if len(texts) == 1 else None)
    if pair is None and single is None:
        raise UserError(f"which column of {source.name} is the text? It has {data.column_names}: say "
                        f"--text-column NAME")  # fmt: skip
    return pair or (single,)
