"""What the app shows, without the app: what can be chosen, and the table and the chart of a choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .chart import chart_points, retained_chart
from .intervals import pairs_of
from .lines import FLOAT, TASKS, Line, chosen, lines_of
from .sources import Source
from .tables import Table, leaderboard, question_tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHOICES = {"task": "Tasks", "budget": "Budgets", "name": "Methods", "model": "Models", "source": "Runs"}
"""Attribute of a line to what its choice is called."""


@dataclass(frozen=True)
class View:
    """A choice of lines.

    Attributes:
        table: of them.
        chart: of them; None where none of them has a size and a share of its float model's score.
        words: how many there are, and what is not drawn.
    """

    table: Table
    chart: Figure | None
    words: str


class Board:
    """Sources of rows, to be looked at.

    Args:
        sources: see `read_sources`.
    """

    def __init__(self, sources: Sequence[Source]):
        self.lines, self._pairs = lines_of(sources), pairs_of(sources)
        self._questions = {one.about["question"]: one for one in sources if not one.compares_methods}

    def choices(self) -> dict[str, list[tuple[str, str]]]:
        """Of each of `CHOICES`: what is shown, and the value that it stands for, in the order of the lines."""
        found = {}
        for name in CHOICES:
            values = dict.fromkeys(getattr(line, name) for line in self.lines if line.method != FLOAT)
            found[name] = [(TASKS.get(value, value) if name == "task" else value, value) for value in values]
        return found

    def view(self, **wanted: str | Iterable[str] | None) -> View:
        """The lines that are chosen, as of `chosen`."""
        lines = _without_lonely_floats(chosen(self.lines, **wanted))
        drawable = len(chart_points(lines))
        names = [name for _, name in self.choices()["name"]]
        chart = retained_chart(lines, names=names) if drawable else None
        return View(leaderboard(lines, self._pairs), chart, _words(lines, drawable))

    def table(self, **wanted: str | Iterable[str] | None) -> Table:
        """That of `view` alone."""
        return leaderboard(_without_lonely_floats(chosen(self.lines, **wanted)), self._pairs)

    def questions(self) -> list[str]:
        """What other sources answer."""
        return list(self._questions)

    def answer(self, question: str) -> str:
        """Markdown: introduction, tables and notes of one of `questions`.

        Raises:
            ValueError: nothing answers it.
        """
        if question not in self._questions:
            raise ValueError(f"no rows answer {question!r}; there are: {'; '.join(self._questions) or 'none'}")
        source = self._questions[question]
        parts = [source.about.get("before", "")]
        for heading, table in question_tables(source).items():
            parts += [f"### {heading}" if heading else "", table.markdown()]
        commands = dict.fromkeys(row["command"] for row in source.rows if row.get("command"))
        parts += [source.about.get("notes", ""), "```\n" + "\n".join(commands) + "\n```" if commands else ""]
        return "\n\n".join(part.strip() for part in parts if part)


def _without_lonely_floats(lines: Sequence[Line]) -> list[Line]:
    """Without float models beside which nothing is left."""
    kept = {(line.source, line.model, line.task) for line in lines if line.method != FLOAT}
    return [line for line in lines if (line.source, line.model, line.task) in kept]


def _words(lines: Sequence[Line], drawn: int) -> str:
    count = sum(line.method != FLOAT for line in lines)
    if not count:
        return "No rows of this choice: take something out of it."
    if drawn == count:
        return f"{count} lines."
    return f"{count} lines, {drawn} in the chart: those with a size and the score of a float model."
