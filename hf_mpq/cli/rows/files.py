"""Files of rows, and a word about lines that became no row."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import say
from ..errors import UserError

if TYPE_CHECKING:
    from datasets import DatasetDict

READERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".txt": "text"}
OPTIONS = {".tsv": {"sep": "\t", "quoting": csv.QUOTE_NONE}}
"""In tab-separated files a quotation mark is a letter like others, as in GLUE's own."""


def of_file(path: Path) -> "DatasetDict":
    """The rows of a file, as the split "train".

    Raises:
        UserError: it is of no known kind.
        DatasetsError: it cannot be read; see `first_cause`.
    """
    from datasets import load_dataset

    if path.suffix not in READERS:
        raise UserError(f"{path} is of no known kind: give a file that ends in {', '.join(sorted(READERS))}")
    found = load_dataset(READERS[path.suffix], data_files={"train": str(path)}, **OPTIONS.get(path.suffix, {}))
    if READERS[path.suffix] == "csv":
        _say_what_is_lost(path, len(found["train"]))
    return found


def _say_what_is_lost(path: Path, rows: int) -> None:
    """Lines that quotation marks join are one row, wanted or not."""
    with path.open("rb") as file:
        lines = sum(1 for line in file if line.strip()) - 1  # the first has the names
    if rows < lines:
        say(
            f"{path}: {lines} lines are {rows} rows, because text in quotation marks goes on over ends of lines; where "
            f"that is not meant, save it as .tsv, in which quotation marks are letters like others"
        )


def first_cause(error: BaseException) -> BaseException:
    """What the reader of a file says, beneath what datasets says of every file."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
