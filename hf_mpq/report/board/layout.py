"""How the rows of one question become a table: what is a line, what is a column, how a cell is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .lines import TASKS
from .sources import ABOUT, Source

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Layout:
    """Read from `about.yaml` of a source.

    Attributes:
        line: title of a column to the field whose value is in it; rows with the same values are one line.
        across: field whose values are columns of their own, in the order in which they come.
        cell: how a row of `across` is written, as of `str.format`: several for rows that lack a field, of which the
            first that can be filled counts.
        columns: title to how it is written, from the first row of the line that has it.
        heads: of values of `across`, in place of the value.
        each: field whose values have a table of their own.
    """

    line: Mapping[str, str]
    across: str | None = None
    cell: Sequence[str] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    heads: Mapping[str, str] = field(default_factory=dict)
    each: str | None = None

    @classmethod
    def of(cls, source: Source) -> "Layout":
        """Raises ValueError when a field that is named is in no row."""
        about = source.about
        names = {name: about[name] for name in cls.__dataclass_fields__ if name in about}
        if isinstance(names.get("cell"), str):
            names["cell"] = [names["cell"]]
        names["heads"] = {str(key): value for key, value in names.get("heads", {}).items()}
        layout = cls(**names)
        known = {name for row in source.rows for name in row}
        asked = [*layout.line.values(), *(name for name in (layout.across, layout.each) if name)]
        missing = [name for name in asked if name not in known]
        if missing:
            raise ValueError(f"{source.name}/{ABOUT} names {missing[0]!r}, which no row has: they have {sorted(known)}")
        return layout

    def table(self, rows: Rows) -> tuple[list[str], list[list[str]]]:
        """Titles, and cells of every line."""
        lines: dict[tuple, list] = {}
        for row in rows:
            lines.setdefault(tuple(_plain(row.get(name)) for name in self.line.values()), []).append(row)
        across = list(dict.fromkeys(str(row[self.across]) for row in rows)) if self.across else []
        columns = {title: text for title, text in self.columns.items() if any(filled(text, row) for row in rows)}
        named = [at for at in range(len(self.line)) if any(key[at] for key in lines)]
        titles = list(self.line)
        head = [*(titles[at] for at in named), *(self.heads.get(one, TASKS.get(one, one)) for one in across), *columns]
        body = [
            [
                *(key[at] for at in named),
                *(self._across(own, one) for one in across),
                *(_first(own, text) for text in columns.values()),
            ]
            for key, own in lines.items()
        ]
        return head, body

    def _across(self, rows: Rows, value: str) -> str:
        """Of all rows with that value, one after the other."""
        own = [row for row in rows if str(row[self.across]) == value]
        return " ".join(next((text for cell in self.cell if (text := filled(cell, row))), "") for row in own)


def _first(rows: Rows, text: str) -> str:
    return next((found for row in rows if (found := filled(text, row))), "")


def filled(text: str, row: Mapping[str, Any]) -> str:
    """The text with the fields of a row; nothing where the row lacks one."""
    try:
        return text.format_map({name: value for name, value in row.items() if value is not None})
    except KeyError:
        return ""


def _plain(value: Any) -> str:
    return "" if value is None else str(value)
