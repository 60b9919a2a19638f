"""Tables of rows: the leaderboard of methods, what they keep of the score, and a table for any other question."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from .intervals import Paired
from .layout import Layout
from .lines import FLOAT, TASKS, Line, Measured, bits_of
from .sources import Source


@dataclass(frozen=True)
class Table:
    """Cells as they are shown: `head` one for each column, `body` one list for each line."""

    head: list[str]
    body: list[list[str]]

    def markdown(self) -> str:
        """As a table of Markdown; empty without lines."""
        if not self.body:
            return ""
        lines = [self.head, ["---"] * len(self.head), *self.body]
        return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


COLUMNS = {
    "score": ("score", 2),
    "retained": ("% of float", 1),
    "kl": ("KL", 4),
    "agreement": ("agreement %", 2),
    "code_bits": ("encoder bits", 2),
    "megabytes": ("MB", 2),
}
"""Attribute of a line to title and digits."""


def leaderboard(lines: Sequence[Line], pairs: Iterable[Paired] = ()) -> Table:
    """One line for each method at each budget. Columns are there where their values differ or are known at all.

    Args:
        pairs: differences that are shown beside the lines that they are of.
    """
    where = [name for name in ("model", "task") if len({getattr(line, name) for line in lines}) > 1]
    shown = [name for name in COLUMNS if any(getattr(line, name) for line in lines)]
    differences = {(pair.source, pair.task, pair.budget, pair.method): pair for pair in pairs}
    found = [differences.get((line.source, line.task, line.budget, line.name)) for line in lines]
    against = sorted({pair.against for pair in found if pair})
    title = [f"KL minus that of {' or '.join(f'`{name}`' for name in against)} (95 %)"] if against else []
    head = [*where, "budget", "method", *(COLUMNS[name][0] for name in shown), *title, "seeds", "run"]
    body = [
        [*_key(line, where), *_cells(line, shown), *([_difference(pair)] * bool(against)), str(line.seeds), line.source]
        for line, pair in zip(lines, found)
    ]
    return Table(head, body)


def _key(line: Line, where: Iterable[str]) -> list[str]:
    names = [TASKS.get(line.task, line.task) if name == "task" else getattr(line, name) for name in where]
    return [*names, line.budget, FLOAT if line.method == FLOAT else f"`{line.name}`"]


def _cells(line: Line, shown: Iterable[str]) -> list[str]:
    return [_text(getattr(line, name), COLUMNS[name][1]) for name in shown]


def _difference(pair: Paired | None) -> str:
    return "" if pair is None else f"{pair.mean:.4f} ({pair.low:.4f} to {pair.high:.4f})"


def _text(value: Measured | None, digits: int) -> str:
    return "" if value is None else value.text(digits)


def kept(lines: Iterable[Line], least: int = 1) -> dict[tuple[str, str], Table]:
    """Model and budget to a table of the share of the float score, one line for each method and one column for each
    task of each source: what is in a column was trained alike.

    A method stands above another where its shares lie further above the medians of their columns.

    Args:
        least: how many methods, whatever their variants, a column must have.
    """
    known = [line for line in lines if line.method != FLOAT and line.retained]
    methods: dict[tuple, set[str]] = {}
    for line in known:
        methods.setdefault((line.model, line.budget, line.task, line.source), set()).add(line.method)
    known = [line for line in known if len(methods[line.model, line.budget, line.task, line.source]) >= least]
    cells = {(line.model, line.budget) for line in known}
    return {
        cell: _kept([line for line in known if (line.model, line.budget) == cell])
        for cell in sorted(cells, key=lambda cell: (cell[0], bits_of(cell[1]), cell[1]))
    }


def _kept(lines: Sequence[Line]) -> Table:
    columns = list(dict.fromkeys((line.task, line.source) for line in lines))
    columns.sort(key=lambda column: TASKS.get(column[0], column[0]).casefold())
    shares = {column: [one.retained.mean for one in lines if (one.task, one.source) == column] for column in columns}
    named: dict[str, dict[tuple[str, str], Line]] = {}
    for line in lines:
        named.setdefault(line.name, {})[line.task, line.source] = line

    def above(name: str) -> float:
        others = [column for column in named[name] if len(shares[column]) > 1]
        return mean([named[name][column].retained.mean - median(shares[column]) for column in others] or [0.0])

    tasks = [task for task, _ in columns]
    head = [TASKS.get(task, task) + (f" ({source})" if tasks.count(task) > 1 else "") for task, source in columns]
    body = [
        [f"`{name}`", *(_text(named[name][one].retained, 1) if one in named[name] else "" for one in columns)]
        for name in sorted(named, key=lambda name: (-above(name), name))
    ]
    return Table(["method", *head], body)


def question_tables(source: Source) -> dict[str, Table]:
    """The tables of a source that answers a question of its own: heading (or nothing) to table."""
    layout = Layout.of(source)
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for row in source.rows:
        parts.setdefault(str(row[layout.each]) if layout.each else "", []).append(row)
    return {heading: Table(*layout.table(rows)) for heading, rows in parts.items()}
