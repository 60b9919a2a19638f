"""Examples from whatever a user has: a task by name, files, a folder, the Hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError, one_line
from .labels import task_of_labels

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from hf_mpq.tasks import Task

READERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".txt": "text"}
PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"),
         ("question", "context"), ("query", "passage"))  # fmt: skip
SINGLES = ("text", "sentence", "content", "review", "document", "query")
EVALUATION = ("validation", "validation_matched", "dev", "test")


@dataclass(frozen=True)
class Source:
    """What the options say about the data: `--data`, `--data-dir`, `--task`, `--text-column`, `--label-column`."""

    name: str
    data_dir: Path | None = None
    task: str | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None


@dataclass(frozen=True)
class Examples:
    """Rows, their text, and how they are scored.

    Attributes:
        splits: by name.
        text_columns: one, or two for pairs; empty where the rows are tokenized already.
        task: None where there are no labels.
    """

    splits: "DatasetDict"
    text_columns: tuple[str, ...]
    task: "Task | None"

    def calibration(self, tokenizer: "PreTrainedTokenizerBase", max_length: int, rows: int) -> "Dataset":
        """Up to `rows` tokenized rows of the training split, or of the only one; a function of nothing but the data."""
        from hf_mpq.tasks import subset

        chosen = subset(self.splits["train" if "train" in self.splits else next(iter(self.splits))], rows)
        return tokenized(chosen, self.text_columns, self.task, tokenizer, max_length)

    def evaluation(self, rows: int | None = None) -> "Dataset":
        """Raw rows of the validation split, else the test split, else the last; the first `rows` of them."""
        name = next((split for split in EVALUATION if split in self.splits), list(self.splits)[-1])
        data = self.splits[name]
        return data if rows is None else data.select(range(min(rows, len(data))))


def tokenized(data: "Dataset", columns: tuple[str, ...], task: "Task | None", tokenizer: "PreTrainedTokenizerBase",
              max_length: int) -> "Dataset":
    """The model's inputs for rows of text, without labels; rows that are tokenized already as they are."""
    if task is not None:
        prepared = task.prepare(data, tokenizer, max_length)
        return prepared.select_columns([name for name in tokenizer.model_input_names if name in prepared.column_names])
    if not columns:
        return data
    encode = lambda batch: tokenizer(*(batch[name] for name in columns), truncation=True, max_length=max_length)  # noqa: E731
    return data.map(encode, batched=True, remove_columns=data.column_names)


def open_data(source: Source, config: "PretrainedConfig") -> Examples:
    """The examples, with the task that scores them for a model of this config.

    Raises:
        UserError: they are not found, or it is not clear what is text and what is a label.
    """
    from hf_mpq.tasks import TASKS, get_task

    if source.name in TASKS:
        return _of_task(get_task(source.name), source, config)
    splits = _splits(source.name)
    if source.task is not None:
        return _as_task(get_task(source.task), splits, config)
    columns = next(iter(splits.values())).column_names
    label = _label_column(source, columns)
    texts = () if "input_ids" in columns else text_columns(source, next(iter(splits.values())), label)
    if label is None or not texts:
        return Examples(splits, texts, None)
    task, splits = task_of_labels(splits, texts, label, config)
    return Examples(splits, texts, task)


def _of_task(task: "Task", source: Source, config: "PretrainedConfig") -> Examples:
    try:
        splits = task.load(source.data_dir)
    except OSError as error:
        raise UserError(one_line(error).replace("data_dir=", "--data-dir")) from error
    return _checked(task, splits, config)


def _as_task(task: "Task", splits: "DatasetDict", config: "PretrainedConfig") -> Examples:
    from datasets import DatasetDict

    from hf_mpq.tasks.columns import conform

    parts = {name: conform(data, task.features(), task.name) for name, data in splits.items()}
    return _checked(task, DatasetDict(parts), config)


def _checked(task: "Task", splits: "DatasetDict", config: "PretrainedConfig") -> Examples:
    """The task's examples, if the model's labels are the task's, in its order."""
    own = [config.id2label[number].casefold() for number in sorted(config.id2label)]
    wanted = [label.casefold() for label in task.label_names]
    if own != wanted and sorted(own) == sorted(wanted):
        raise UserError(f"the model's labels are {own}, and {task.name!r} has them in the order {wanted}: give the "
                        f"data as a file whose label column holds the names")  # fmt: skip
    return Examples(splits, task.text_columns, task)


def _splits(name: str) -> "DatasetDict":
    """The data of a file, a folder or the Hub."""
    from datasets import load_dataset, load_from_disk
    from datasets.exceptions import DatasetsError

    path = Path(name)
    try:
        if path.is_file():
            return _of_file(path)
        if path.is_dir():
            saved = any((path / file).is_file() for file in ("dataset_dict.json", "state.json"))
            return _as_splits(load_from_disk(str(path)) if saved else load_dataset(str(path)))
        if name.count("/") == 1 and not path.suffix:
            return _as_splits(load_dataset(name))
    except (DatasetsError, OSError, ValueError) as error:
        raise UserError(f"cannot read the data {name!r}: {one_line(error)}") from error
    raise UserError(f"there is no task, file or folder {name!r}: give one of the tasks {_tasks()}, or a file "
                    f"({', '.join(sorted(READERS))})")  # fmt: skip


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
