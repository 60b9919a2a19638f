"""Stored bytes against retained quality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

from ..figures.pareto import draw_points
from ..figures.run_points import Point
from .lines import FLOAT, TASKS, Line

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LEAST_SPAN = 98.0, 101.0
"""Shares that every picture shows, so that tenths of a percent do not look like much."""


def chart_points(lines: Iterable[Line], least: int = 1) -> list[Point]:
    """What is drawn, by task: lines with a size and a share of the float score. Only lines of one source, which were
    trained alike from the same float model, share a picture.

    Args:
        least: pictures of fewer points are left out.
    """
    known = [line for line in lines if line.megabytes and line.retained and line.method != FLOAT]
    counts = Counter((line.task, line.source, line.model) for line in known)
    known = [line for line in known if counts[line.task, line.source, line.model] >= least]
    places = {(line.task, line.source, line.model) for line in known}
    several = {task for task in counts if sum(place[0] == task[0] for place in places) > 1}
    points = [
        Point(
            _title(line, (line.task, line.source, line.model) in several, len({place[2] for place in places}) > 1),
            line.name,
            line.megabytes.mean,
            line.retained.mean,
            nan if line.retained.half is None else line.retained.half,
            line.seeds,
        )
        for line in known
    ]
    return sorted(points, key=lambda point: point.task.casefold())


def _title(line: Line, several_runs: bool, several_models: bool) -> str:
    parts = [TASKS.get(line.task, line.task), line.model if several_models else "", line.source if several_runs else ""]
    return ", ".join(part for part in parts if part)


def retained_chart(
    lines: Iterable[Line],
    dark: bool = False,
    columns: int = 2,
    names: Sequence[str] | None = None,
    least: int = 1,
) -> Figure:
    """MB on disk against the share of the float model's score that is kept, one picture for each task and source.

    The broad pale line is what nothing of at most the same size is better than; bars are 95 % intervals over seeds.

    Args:
        names: in whose order colours are given; default: that of the lines.
        least: pictures of fewer points are left out.

    Raises:
        ValueError: none of the lines has a size and a share.
    """
    points = chart_points(lines, least)
    if not points:
        raise ValueError("nothing to draw: none of these rows has megabytes, and a score beside its float model's")
    figure = draw_points(points, y="retained", dark=dark, columns=columns, level=100.0, names=names)
    for axis in figure.axes:
        if axis.get_visible():
            low, high = axis.get_ylim()
            axis.set_ylim(min(low, LEAST_SPAN[0]), max(high, LEAST_SPAN[1]))
    return figure


def save_chart(lines: Sequence[Line], file: str | Path, columns: int = 2, least: int = 1) -> None:
    """Write it as SVG with the text as text, the same bytes for the same lines and versions."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "hf_mpq", "svg.fonttype": "none", "font.family": "sans-serif"}):
        about = {"Date": None, "Creator": None, "Description": fingerprint(lines, least)}
        retained_chart(lines, columns=columns, least=least).savefig(file, format="svg", metadata=about)


def fingerprint(lines: Iterable[Line], least: int = 1) -> str:
    """Of what the chart shows, which its file holds: a chart of other rows is known by it."""
    from hashlib import sha256

    shown = sorted(f"{p.task} {p.name} {p.x:.3f} {p.y:.3f} {p.half:.3f} {p.runs}" for p in chart_points(lines, least))
    return sha256("\n".join(shown).encode()).hexdigest()[:16]
