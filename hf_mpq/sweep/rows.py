"""Rows of results in a file of JSON lines, which grows by whole lines only."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROWS = "results.jsonl"
"""Of a folder."""


class Results:
    """Rows of results, written as they come; what is there already is not done again.

    A last line without its end is what a process left that was killed while it wrote: it is no row, and the next row
    takes its place.

    Args:
        file: of JSON lines, made where it is not there.
        keys: fields that tell rows apart.
        say: whether rows are printed as they come.

    Raises:
        ValueError: a line within the file is damaged; the message has its number.
    """

    def __init__(self, file: Path, *keys: str, say: bool = True):
        self.file, self.keys, self._say = file, keys, say
        file.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, Any]] = []
        self.reread()

    def reread(self) -> list[dict[str, Any]]:
        """Take in what other processes wrote since; returns all rows."""
        whole = _whole_lines(self.file).splitlines() if self.file.exists() else []
        self.rows = [_row(self.file, number, line) for number, line in enumerate(whole, 1) if line.strip()]
        return self.rows

    def find(self, **row: Any) -> dict[str, Any] | None:
        """The row with these keys, where it is there."""
        return next((known for known in self.rows if all(known.get(key) == row.get(key) for key in self.keys)), None)

    def has(self, **row: Any) -> bool:
        """Whether a row with these keys is there."""
        return self.find(**row) is not None

    def add(self, **row: Any) -> None:
        """Append a row."""
        self.rows.append(row)
        with self.file.open("ab") as file:
            file.truncate(len(_whole_lines(self.file)))
            file.write(json.dumps(row).encode() + b"\n")
        if self._say:
            print(in_words(row), flush=True)


def in_words(row: Mapping[str, Any]) -> str:
    """A row in one line."""
    return "  ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items()
    )


def _whole_lines(file: Path) -> bytes:
    content = file.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def _row(file: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{file}, line {number} is damaged ({error}): remove it, and its run is done again") from error
    if not isinstance(row, dict):
        raise ValueError(f"{file}, line {number} is no row: remove it")
    return row
