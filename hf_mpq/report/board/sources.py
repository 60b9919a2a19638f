"""Where measured rows are: folders of JSON lines, each with what was run to get them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROWS = Path(__file__).with_name("rows")
"""In a clone a link to its `benchmarks/rows`, in a wheel the folder itself."""
RESULTS, ABOUT = "results.jsonl", "about.yaml"


@dataclass(frozen=True)
class Source:
    """One folder of rows.

    Attributes:
        name: of the folder.
        rows: as they were written, one for each line of `results.jsonl`.
        about: of `about.yaml`: what the rows answer, and how they become a table (see `Layout`); empty for rows of
            methods under a budget, as `benchmarks/compare_methods.py` writes them.
        intervals: of `intervals.jsonl`: paired differences between two methods on the same rows.
        folder: where it is.
    """

    name: str
    rows: tuple[Mapping[str, Any], ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    intervals: tuple[Mapping[str, Any], ...] = ()
    folder: Path | None = None

    @property
    def compares_methods(self) -> bool:
        """Whether its rows are of methods under budgets, and not a table of their own."""
        return "line" not in self.about


def read_sources(folder: str | Path = ROWS) -> list[Source]:
    """All sources in a folder, by name; none where nothing has been measured yet.

    Args:
        folder: with one folder for each source, or a single source.

    Raises:
        ValueError: the folder is not there, or a line in it is not a JSON object.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"there is no folder {folder}: give one with NAME/{RESULTS} in it, such as benchmarks/rows, or a single "
            "output folder of benchmarks/compare_methods.py"
        )
    files = [folder / RESULTS] if (folder / RESULTS).exists() else sorted(folder.glob(f"*/{RESULTS}"))
    return [_source(file.parent) for file in files]


def _source(folder: Path) -> Source:
    about = folder / ABOUT
    told = yaml.safe_load(about.read_text(encoding="utf-8")) if about.exists() else {}
    intervals = folder / "intervals.jsonl"
    known = _lines(intervals) if intervals.exists() else ()
    return Source(folder.resolve().name, _lines(folder / RESULTS), told, known, folder)


def _lines(file: Path) -> tuple[Mapping[str, Any], ...]:
    """The rows of a file; a last line without its end is no row yet, but what a process has begun to write."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8 ({error}): run what wrote it again") from error
    found, lines = [], text.splitlines()
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(_row(line, f"{file}, line {number}"))
            except ValueError:
                if number < len(lines) or text.endswith("\n"):
                    raise
    return tuple(found)


def _row(line: str, place: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place} is no JSON ({error}): take it out, or run what wrote it again") from error
    if not isinstance(row, dict):
        raise ValueError(f"{place} is no JSON object, but {type(row).__name__}: a row has names and values")
    return row
