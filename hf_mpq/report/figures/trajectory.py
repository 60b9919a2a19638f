"""The course of a search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...runs.reader import read_run
from .theme import Theme, new_figure, themed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = list[Mapping[str, float]]


def search_trajectory(run_folder: str | Path, dark: bool = False) -> Figure:
    """Draw what the search stage of a run logged: temperature and indecision of the gates, expected and actual cost,
    the share of each precision, and the loss terms.

    Args:
        run_folder: `output_dir` of an `MPQTrainer`.
        dark: for a dark page.

    Raises:
        ValueError: when the folder holds no run, the run did not search, or nothing of the search was logged yet.
    """
    run = read_run(run_folder)
    if run.search is None:
        raise ValueError(
            f"the run in {run_folder} has no search: its stages are {', '.join(stage.name for stage in run.stages)}"
        )
    rows = [row for row in run.search.history if "cost" in row]
    if not rows:
        raise ValueError(f"the search of {run_folder} has logged nothing yet, or its checkpoints are gone")
    with themed(dark) as theme:
        figure = new_figure(9.5, 5.6)
        figure.suptitle(f"{run.method}: the search, step by step")
        (gates, cost), (shares, losses) = figure.subplots(2, 2, sharex=True)
        _draw_gates(gates, rows, theme)
        _draw_cost(cost, rows, theme)
        cost.set_title("cost" if run.budget is None else f"cost; the budget is {run.budget}")
        _draw_shares(shares, rows, theme)
        _draw_losses(losses, rows)
        for axis in (shares, losses):
            axis.set_xlabel("step")
    return figure


def _series(axis: Axes, rows: Rows, keys: Iterable[str], **style) -> None:
    for key in keys:
        found = [(row["step"], row[key]) for row in rows if key in row]
        if found:
            axis.plot(*zip(*found), label=key.removeprefix("loss_").replace("_", " "), **style)


def _draw_gates(axis: Axes, rows: Rows, theme: Theme) -> None:
    """Temperature on the left, indecision on the right."""
    axis.set(title="gates", ylabel="temperature")
    _series(axis, rows, ["temperature"], color=theme.lines[0])
    if all(row.get("temperature", 0) > 0 for row in rows):
        axis.set_yscale("log")
    other = axis.twinx()
    other.set(ylabel="uncertainty: 1 - largest probability", ylim=(0, 1))
    other.spines["right"].set_visible(True)
    _series(other, rows, ["uncertainty"], color=theme.lines[1], linestyle="--")
    axis.legend(handles=[*axis.lines, *other.lines], loc="best")
    axis.grid(True, alpha=0.6)


def _draw_cost(axis: Axes, rows: Rows, theme: Theme) -> None:
    _series(axis, rows, ["expected_cost"], color=theme.lines[0])
    _series(axis, rows, ["cost"], color=theme.lines[1], linestyle="--")
    axis.legend()
    axis.grid(True, alpha=0.6)


def _draw_shares(axis: Axes, rows: Rows, theme: Theme) -> None:
    """Areas in the colours of the bit map, most bits on top."""
    precisions = sorted({int(key.removeprefix("bits/")) for row in rows for key in row if key.startswith("bits/")})
    steps = [row["step"] for row in rows]
    shares = [[row.get(f"bits/{bits}", 0.0) for row in rows] for bits in precisions]
    labels = [f"{bits} bits" if bits else "pruned" for bits in precisions]
    axis.stackplot(steps, shares, colors=theme.bit_colours(precisions), labels=labels, linewidth=0)
    axis.set(title="share of the open weights, likeliest bits", ylim=(0, 1), xlim=(steps[0], steps[-1]))
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), reverse=True)


def _draw_losses(axis: Axes, rows: Rows) -> None:
    keys = sorted({key for row in rows for key in row if key.startswith("loss_")})
    axis.set(title="loss terms")
    _series(axis, rows, keys)
    values = [value for line in axis.lines for value in line.get_ydata()]
    if values and min(values) > 0:
        axis.set_yscale("log")
    axis.legend()
    axis.grid(True, alpha=0.6)
