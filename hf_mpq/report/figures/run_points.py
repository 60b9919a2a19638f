"""Rows of results as points with intervals over seeds."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .intervals import interval

FLOAT_NAME = "float"
"""The method of the model that is compressed."""
SAME_SIZE = 1.01


@dataclass(frozen=True)
class Point:
    """Runs that differ by their seed only.

    Attributes:
        task, name: of what was run.
        x, y: means.
        half: half the interval of y; nan for one run.
        runs: how many.
    """

    task: str
    name: str
    x: float
    y: float
    half: float
    runs: int


def read_rows(runs: Sequence[Mapping[str, Any]] | str | Path) -> list[Mapping[str, Any]]:
    """The rows themselves, or those of a file of JSON lines.

    Raises:
        ValueError: without rows.
    """
    rows = (
        [json.loads(line) for line in Path(runs).read_text().splitlines() if line.strip()]
        if isinstance(runs, str | Path)
        else list(runs)
    )
    if not rows:
        raise ValueError("there are no runs to draw: give one row for each, with its name and what was measured")
    return rows


def points_of(rows: Iterable[Mapping[str, Any]], x: str, y: str) -> list[Point]:
    """One point for each task, name and budget (without a budget: value of x), in the order in which they come first.

    Raises:
        ValueError: when a row has neither `name` nor `method`, or lacks `x` or `y`.
    """
    found = defaultdict(list)
    for row in rows:
        lacking = [key for key in (x, y) if row.get(key) is None]
        if lacking:
            raise ValueError(
                f"a run has no {' and no '.join(map(repr, lacking))}, only {sorted(row)}; name another x or y"
            )
        found[row.get("task", ""), _name(row), row.get("budget", row[x])].append(row)
    return [
        Point(task, name, interval(row[x] for row in same)[0], *interval(row[y] for row in same), len(same))
        for (task, name, _), same in found.items()
    ]


def _name(row: Mapping[str, Any]) -> str:
    if "name" not in row and "method" not in row:
        raise ValueError(f"a run has neither 'name' nor 'method', only {sorted(row)}")
    variant = f" ({row['variant']})" if row.get("variant") else ""
    return row["name"] if "name" in row else row["method"] + variant


def front(points: Iterable[Point], lower_is_better: bool) -> list[Point]:
    """Those that none of at most the same size is better than, by x; sizes within a hundredth are the same."""
    sign, points = -1 if lower_is_better else 1, list(points)

    def beaten(one: Point) -> bool:
        return any(other.x <= one.x * SAME_SIZE and sign * other.y > sign * one.y for other in points)

    return sorted((one for one in points if not beaten(one)), key=lambda one: one.x)
