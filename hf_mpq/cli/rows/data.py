"""Examples from whatever a user has: a task by name, files, a folder, the Hub."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError, one_line
from .columns import label_column, text_columns
from .examples import Examples
from .files import READERS, first_cause, of_file, of_folder
from .label_lists import with_label_sets, with_tag_ids
from .labels import is_tagger, task_of_labels, with_ids

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PretrainedConfig

    from ...tasks import Task

NO_CONFIGURATION = ("Config name is missing", "BuilderConfig", "Available configs")
"""What datasets says where a configuration is to be named, or another one."""
NO_ROWS = "corresponds to no data"
"""What it says of a file without any."""


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
    from ...tasks import TASKS, get_task

    path = Path(source.name)
    if source.config is not None and (source.name in TASKS or path.is_file() or _is_saved(path)):
        raise UserError(f"{source.name} has no configurations: leave out --data-config {source.config}")
    if source.name in TASKS:
        if source.task not in (None, source.name):
            raise UserError(f"{source.name} is a task by itself: leave out --task {source.task}")
        task = get_task(source.name)
        _check_named(source, task)
        return _of_task(task, source, config)
    splits = _splits(source.name, source.config)
    if source.task is not None:
        task = get_task(source.task)
        return _as_task(task, source, _with_columns_of(task, splits, source), config)
    first, tagger = next(iter(splits.values())), is_tagger(config)
    label = label_column(source, first, tagger)
    texts = () if "input_ids" in first.column_names else text_columns(source, first, label, tagger)
    if label is None or not texts:
        return Examples(source.name, splits, texts)
    task = task_of_labels(texts, label, config)
    return Examples(source.name, splits, texts, task, partial(_converter(task), label=label, names=task.label_names))


def _converter(task: "Task"):
    """What turns the labels of a user's own rows into the model's ids."""
    from ...tasks import MultiLabelClassification

    if task.kind == "token-classification":
        return partial(with_tag_ids, words=task.text_columns[0])
    return with_label_sets if isinstance(task, MultiLabelClassification) else with_ids


def _of_task(task: "Task", source: Source, config: "PretrainedConfig") -> Examples:
    try:
        splits = task.load(source.data_dir)
    except OSError as error:
        raise UserError(one_line(error).replace("data_dir=", "--data-dir")) from error
    return _as_task(task, source, splits, config)


def _as_task(task: "Task", source: Source, splits: "DatasetDict", config: "PretrainedConfig") -> Examples:
    from ...tasks.columns import conform

    for data in splits.values():
        conform(data, dict.fromkeys(task.text_columns), task.name)
    as_ids = partial(_with_ids_of_task, task=task, config=config)
    return Examples(source.name, splits, task.text_columns, task, as_ids)


def _check_named(source: Source, task: "Task") -> None:
    """Refuse names of columns beside a task's own data, which have the task's."""
    for option, given, own in (
        ("--text-column", source.text_columns, task.text_columns),
        ("--label-column", (source.label_column,) if source.label_column else (), (task.label_column,)),
    ):
        if given and given != own:
            raise UserError(f"the task {task.name!r} has the columns {[*own]} by itself: leave out {option}")


def _with_columns_of(task: "Task", splits: "DatasetDict", source: Source) -> "DatasetDict":
    """The rows with the columns that were named called as the task calls them."""
    from datasets import DatasetDict

    named = source.text_columns
    if named and len(named) != len(task.text_columns):
        raise UserError(
            f"the task {task.name!r} reads the columns {', '.join(task.text_columns)}: give --text-column for each of "
            f"them, in this order, or for none"
        )
    first = next(iter(splits.values()))
    if named:
        named = text_columns(source, first, None, tagger=False)
    names = dict(zip(named, task.text_columns))
    if source.label_column is not None:
        names[label_column(source, first, tagger=False) or ""] = task.label_column
    return DatasetDict({name: _renamed(data, names) for name, data in splits.items()})


def _renamed(data: "Dataset", names: dict[str, str]) -> "Dataset":
    """With columns called anew; another that is called so already goes. Splits may lack columns that are not scored."""
    there = {old: new for old, new in names.items() if old in data.column_names and old != new}
    kept = {old for old, new in names.items() if old == new}
    gone = [new for new in there.values() if new in data.column_names and new not in there and new not in kept]
    return data.remove_columns(gone).rename_columns(there) if there else data


def _with_ids_of_task(data: "Dataset", task: "Task", config: "PretrainedConfig") -> "Dataset":
    """The rows with the task's ids, if the model's labels are the task's, in its order."""
    from ...tasks.columns import conform

    if getattr(task, "regression", False):
        return conform(with_ids(data, task.label_column, ()), task.features(), task.name)
    own = [config.id2label[number].casefold() for number in sorted(config.id2label)]
    wanted = [label.casefold() for label in task.label_names]
    if own != wanted and sorted(own) == sorted(wanted):
        raise UserError(
            f"the model's labels are {own}, and {task.name!r} has them in the order {wanted}: give the "
            f"data as a file whose label column holds the names"
        )
    return conform(data, task.features(), task.name)


def _splits(name: str, config: str | None) -> "DatasetDict":
    """The data of a file, a folder or the Hub, the latter two in a configuration of that name."""
    from datasets import load_dataset, load_from_disk
    from datasets.exceptions import DatasetsError

    path = Path(name)
    try:
        if path.is_file():
            return of_file(path)
        if path.is_dir():
            return _as_splits(load_from_disk(str(path)) if _is_saved(path) else of_folder(path, config))
        if name.count("/") == 1 and not path.suffix:
            return _as_splits(load_dataset(name, config))
    except UserError:
        raise
    except (DatasetsError, OSError, ValueError) as error:
        reason = one_line(first_cause(error)).partition(" Example of usage")[0]
        reason = "it has no rows" if NO_ROWS in reason else reason
        cure = ": name one with --data-config" if any(words in reason for words in NO_CONFIGURATION) else ""
        raise UserError(f"cannot read the data {name!r}: {reason}{cure}") from error
    raise UserError(
        f"there is no task, file or folder {name!r}: give one of the tasks {_tasks()}, or a file "
        f"({', '.join(sorted(READERS))})"
    )


def _is_saved(path: Path) -> bool:
    """Whether it is a folder of `save_to_disk`."""
    return any((path / file).is_file() for file in ("dataset_dict.json", "state.json"))


def _tasks() -> str:
    from ...tasks import TASKS

    return ", ".join(sorted(TASKS))


def _as_splits(data) -> "DatasetDict":
    from datasets import Dataset, DatasetDict

    return DatasetDict({"train": data}) if isinstance(data, Dataset) else data
