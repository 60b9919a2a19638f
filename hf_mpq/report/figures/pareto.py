"""Quality over size of several runs, and the front that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .run_points import FLOAT_NAME, Point, front, points_of, read_rows
from .theme import Theme, new_figure, themed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {
    "megabytes": "MB on disk",
    "code_bits": "bits per encoder weight",
    "kl": "KL divergence from the float model",
    "unseen_kl": "KL divergence from the float model",
    "milliseconds": "ms per input",
    "retained": "% of the float model's score",
}
MARKERS = "oD^vP*X"


def pareto_front(
    runs: Sequence[Mapping[str, Any]] | str | Path,
    baseline: str = "uniform",
    x: str = "megabytes",
    y: str = "score",
    lower_is_better: bool = False,
    dark: bool = False,
) -> Figure:
    """Draw runs as points, one line for each name, one picture for each task.

    Runs that differ by their seed only are one point at their mean, with the 95 % bootstrap interval of the mean. The
    baseline is dashed and hollow; the broad pale line is the front: what none of at most
    the same size is better than. A run called
    `"float"` is a level to compare with.

    Args:
        runs: one row for each, or a file of JSON lines as `benchmarks/compare_methods.py` writes it; `name` (or
            `method` and `variant`), `x` and `y`, and where there are any `task`, `budget` and `seed`.
        baseline: name, or start of the names, of what the others have to beat.
        x, y: what is drawn.
        lower_is_better: of y, which then has a logarithmic scale where all its values are positive.
        dark: for a dark page.

    Raises:
        ValueError: without runs, or when one of them has no name, `x` or `y`.
    """
    return draw_points(points_of(read_rows(runs), x, y), baseline, x, y, lower_is_better, dark)


def draw_points(
    points: Sequence[Point],
    baseline: str = "uniform",
    x: str = "megabytes",
    y: str = "score",
    lower_is_better: bool = False,
    dark: bool = False,
    columns: int | None = None,
    level: float | None = None,
    names: Sequence[str] | None = None,
) -> Figure:
    """The same of points.

    Args:
        columns: pictures beside each other, with one scale of x and one legend for all; None puts all into one row,
            each with its own.
        level: of y that every picture shows, the float model's; None takes it of the points of that name.
        names: in whose order colours and markers are given, so that they stay where points are left out; default: the
            order of the points.
    """
    tasks = list(dict.fromkeys(point.task for point in points))
    names = list(dict.fromkeys([*(names or ()), *(point.name for point in points if point.name != FLOAT_NAME)]))
    across = min(columns or len(tasks), len(tasks))
    down = -(-len(tasks) // across)
    with themed(dark) as theme:
        size = (max(5.2 * across, 6), 3.9) if columns is None else (4.2 * across, 2.8 * down + 1)
        figure = new_figure(*size)
        axes = figure.subplots(down, across, squeeze=False, sharex=columns is not None).flat
        for task, axis in zip(tasks, axes):  # which takes no axis beyond the last task
            _draw(axis, [point for point in points if point.task == task], names, baseline, lower_is_better, theme)
            if level is not None:
                axis.axhline(level, color=theme.float, linestyle=":", zorder=1, label=FLOAT_NAME)
            axis.set(title=task, xlabel=LABELS.get(x, x.replace("_", " ")), ylabel=LABELS.get(y, y.replace("_", " ")))
            axis.tick_params(labelbottom=True)
            if columns is None:
                axis.legend()
        for axis in axes:
            axis.set_visible(False)
        if columns is not None:
            figure.get_layout_engine().set(h_pad=0.1, w_pad=0.08)
            _legend(figure, 2 * across)
    return figure


def _legend(figure: Figure, columns: int) -> None:
    """One for all pictures, each name once."""
    found = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns)


def _draw(axis: Axes, points: list[Point], names: list[str], baseline: str, lower: bool, theme: Theme) -> None:
    runs = [point for point in points if point.name != FLOAT_NAME]
    best = front(runs, lower)
    axis.plot(
        [point.x for point in best],
        [point.y for point in best],
        color=theme.faint,
        linewidth=9,
        zorder=1,
        solid_capstyle="round",
        solid_joinstyle="round",
        label="front",
    )
    beaten = [name for name in names if name.startswith(baseline)]
    others = [name for name in names if name not in beaten]
    for name in names:
        own = sorted((point for point in runs if point.name == name), key=lambda point: point.x)
        if own:
            style = _style(others.index(name), theme) if name in others else _hollow(beaten.index(name), theme)
            halves = np.nan_to_num([point.half for point in own])
            places = [point.x for point in own], [point.y for point in own]
            axis.errorbar(*places, halves, label=name, capsize=3, **style)
    if lower and all(point.y > 0 for point in runs):
        axis.set_yscale("log")
    else:
        _draw_level(axis, points, theme)
    axis.grid(True, alpha=0.6)


def _style(number: int, theme: Theme) -> dict[str, Any]:
    marker = number + number // len(theme.lines)  # the same colour again has another one
    return {"color": theme.lines[number % len(theme.lines)], "marker": MARKERS[marker % len(MARKERS)], "zorder": 3}


def _hollow(number: int, theme: Theme) -> dict[str, Any]:
    return {
        "color": theme.ink,
        "linestyle": "--",
        "marker": "so^D"[number % 4],
        "markerfacecolor": theme.page,
        "alpha": 0.75,
        "linewidth": 1.2,
        "zorder": 2,
    }


def _draw_level(axis: Axes, points: list[Point], theme: Theme) -> None:
    for point in points:
        if point.name == FLOAT_NAME:
            axis.axhline(point.y, color=theme.float, linestyle=":", zorder=1, label=f"float, at {point.x:.3g}")
