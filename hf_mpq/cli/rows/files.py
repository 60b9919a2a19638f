"""Files of rows, and a word about lines that became no row."""

import csv
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import say
from ..errors import UserError

if TYPE_CHECKING:
    from datasets import DatasetDict

READERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".txt": "text"}
_TABLE = {"index_col": False, "keep_default_na": False, "na_values": [""]}
"""A column of names is none of numbers of rows, and a text or a label may be None, NA or null: only nothing is none."""
OPTIONS = {".csv": _TABLE, ".tsv": {**_TABLE, "sep": "\t", "quoting": csv.QUOTE_NONE}}
"""In tab-separated files a quotation mark is a letter like others, as in GLUE's own."""
_OTHER_SEPARATORS = {"\t": "tabs, as in a file that ends in .tsv", ";": "semicolons", "|": "bars"}


def of_file(path: Path) -> "DatasetDict":
    """The rows of a file, as the split "train".

    Raises:
        UserError: it is of no known kind, it is empty, or its lines are not those of one table.
        DatasetsError: it cannot be read; see `first_cause`.
    """
    kind = path.suffix.lower()
    if kind not in READERS:
        raise UserError(f"{path} is of no known kind: give a file that ends in {', '.join(sorted(READERS))}")
    if not path.stat().st_size:
        raise UserError(f"cannot read the data '{path}': it has no rows")
    return _loaded(kind, {"train": [str(path)]})


def of_folder(path: Path, config: str | None) -> "DatasetDict":
    """The rows of the files in a folder, with the splits that their names say; tables as `of_file` reads them.

    Raises:
        UserError, DatasetsError: as `of_file`.
    """
    from datasets import load_dataset, load_dataset_builder

    found = load_dataset_builder(str(path), config).config.data_files or {}
    files = {str(split): [str(one) for one in some] for split, some in found.items()}
    kinds = {Path(one).suffix.lower() for some in files.values() for one in some}
    if config is None and len(kinds) == 1 and kinds <= OPTIONS.keys():
        return _loaded(kinds.pop(), files)
    return load_dataset(str(path), config)


def _loaded(kind: str, files: Mapping[str, list[str]]) -> "DatasetDict":
    from datasets import load_dataset

    for file in (one for some in files.values() for one in some if kind in OPTIONS):
        _check_lines(Path(file), OPTIONS[kind])
    found = load_dataset(READERS[kind], data_files=dict(files), **OPTIONS.get(kind, {}))
    for split, some in files.items():
        if READERS[kind] == "csv":
            _say_what_is_lost(list(map(Path, some)), len(found[split]))
    return found


def _check_lines(path: Path, options: Mapping) -> None:
    """Raise UserError where a line has more cells than the first, which names the columns, or those are not apart."""
    dialect = {"delimiter": options.get("sep", ","), "quoting": options.get("quoting", csv.QUOTE_MINIMAL)}
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file, suppress(csv.Error):
        lines = csv.reader(file, **dialect)
        names = next(lines, [])
        words = next((words for sign, words in _OTHER_SEPARATORS.items() if len(names) == 1 and sign in names[0]), None)
        if words is not None:
            raise UserError(
                f"the columns of {path} are separated by {words}: write it with commas, or as .tsv with tabs"
            )
        for cells in lines:
            if any(cells[len(names) :]):
                raise UserError(
                    f"line {lines.line_num} of {path} has {len(cells)} cells, and the first line names {len(names)} "
                    f"columns: put texts that hold the separator in quotation marks, or save it as .jsonl"
                )


def _say_what_is_lost(paths: list[Path], rows: int) -> None:
    """Lines that quotation marks join are one row, wanted or not."""
    lines = sum(_lines(path) - 1 for path in paths)  # the first has the names
    if rows < lines:
        say(
            f"{paths[0]}: {lines} lines are {rows} rows, because text in quotation marks goes on over ends of lines; "
            f"where that is not meant, save it as .tsv, in which quotation marks are letters like others"
        )


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def first_cause(error: BaseException) -> BaseException:
    """What the reader of a file says, beneath what datasets says of every file."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
