"""How long engines take, with the spread of what was measured."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .theme import Theme, new_figure, themed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Spread = tuple[float, float, float]
"""Lower quartile, median, upper quartile in milliseconds."""


def latency_chart(rows: Iterable[Mapping[str, Any]], dark: bool = False) -> Figure:
    """Draw the median of each engine at each shape, with its quartiles; one picture for each shape.

    Args:
        rows: either `engine`, `shape` (such as `"8x128"`, batch x tokens) and `times` in milliseconds, or `ms` with
            `quartiles`; or as `benchmarks/bench_inference.py` writes them: an `engine` and a mapping for each shape.
        dark: for a dark page.

    Raises:
        ValueError: without anything that was measured.
    """
    found = {(engine, shape): spread for row in rows for engine, shape, spread in _measured(row)}
    if not found:
        raise ValueError("there is nothing to draw: rows need engine, shape and times (or ms and quartiles)")
    engines, shapes = (list(dict.fromkeys(keys)) for keys in zip(*found))
    with themed(dark) as theme:
        figure = new_figure(max(3.2 * len(shapes) + 1.5, 6), 0.32 * len(engines) + 1.1)
        axes = figure.subplots(1, len(shapes), sharey=True, squeeze=False)[0]
        for axis, shape in zip(axes, shapes):
            _draw(axis, [(engine, found.get((engine, shape))) for engine in engines], theme)
            axis.set(title=_words(shape), xlabel="milliseconds: median and quartiles")
        axes[0].set_yticks(range(len(engines)), engines)
        axes[0].invert_yaxis()
    return figure


def _measured(row: Mapping[str, Any]) -> Iterator[tuple[str, str, Spread]]:
    if "shape" in row:
        yield row["engine"], row["shape"], _spread(row)
    for key, value in row.items():
        if re.fullmatch(r"\d+x\d+", key):
            yield row["engine"], key, _spread(value)


def _spread(row: Mapping[str, Any]) -> Spread:
    if "times" in row:
        times = 2 * list(row["times"]) if len(row["times"]) == 1 else row["times"]
        low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
        return low, middle, high
    low, high = row["quartiles"]
    return low, row["ms"], high


def _words(shape: str) -> str:
    batch, _, tokens = shape.partition("x")
    return f"{batch} {'input' if batch == '1' else 'inputs'} of {tokens} tokens"


def _draw(axis: Axes, spreads: list[tuple[str, Spread | None]], theme: Theme) -> None:
    for place, (_, spread) in enumerate(spreads):
        if spread is not None:
            low, middle, high = spread
            axis.plot([low, high], [place, place], color=theme.lines[0], linewidth=6, alpha=0.4, solid_capstyle="butt")
            axis.plot(middle, place, "o", color=theme.lines[0], markersize=5)
            axis.annotate(f"{middle:.3g}", (high, place), (6, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_xlim(0, 1.18 * max(spread[2] for _, spread in spreads if spread is not None))
    axis.set_ylim(-0.6, len(spreads) - 0.4)
    axis.grid(True, axis="x", alpha=0.6)
