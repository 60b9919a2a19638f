"""The table and the picture of a sweep, of whatever is done so far."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.files import whole_file, write_text
from ..report import pareto_front
from ..report.figures.intervals import interval
from .measures import DIRECTIONS
from .plan import OWN, Plan

DIGITS = {"unseen_kl": 4, "kl": 4}
REPORT, PICTURE = "report.md", "pareto.png"


def write_report(rows: Sequence[Mapping[str, Any]], plan: Plan, folder: Path) -> str:
    """Write `report.md`, and `pareto.png` where there are rows; returns the text.

    Args:
        rows: of the sweep.
        plan: whose objectives are shown.
        folder: of the sweep.
    """
    shown = [row for row in rows if row.get("task") in plan.tasks]
    text = table(shown, plan) if shown else "no run is done yet"
    write_text(folder / REPORT, text + "\n")
    names = [name for name in plan.objectives if all(row.get(name) is not None for row in shown)]
    if shown and len(names) > 1:
        first, second = names[:2]
        drawn = [{**row, "variant": "", "budget": f"{row['budget']} {row['variant']}"} for row in shown]
        figure = pareto_front(drawn, x=second, y=first, lower_is_better=DIRECTIONS[first] == "minimize")
        with whole_file(folder / PICTURE) as file:
            figure.savefig(file, dpi=150)
    return text


def table(rows: Sequence[Mapping[str, Any]], plan: Plan) -> str:
    """Rows in Markdown; those that differ by their seed only in one line, at their mean with half the 95 % bootstrap
    interval. A star is on the front: nothing of its task is at least as good in every objective and better in one."""
    others = [name for name in plan.varied if name not in OWN]
    head = ["task", "method", "budget", *others, *plan.objectives, "seeds", "front"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    groups = defaultdict(list)
    for row in rows:
        groups[row["task"], row["method"], row["budget"], row["variant"]].append(row)
    means = {key: [np.mean([row[name] for row in same]) for name in plan.objectives] for key, same in groups.items()}
    for task in plan.tasks:
        keys = sorted((key for key in means if key[0] == task), key=lambda key: means[key][1:] or means[key])
        best = front({key: means[key] for key in keys}, plan.objectives)
        for key in keys:
            same = groups[key]
            cells = [cell(name, [row[name] for row in same]) for name in plan.objectives]
            varied = [_short(same[0]["point"].get(name)) for name in others]
            lines.append(
                "| " + " | ".join([*key[:3], *varied, *cells, str(len(same)), "*" if key in best else ""]) + " |"
            )
    return "\n".join(lines)


def front(means: Mapping[Any, Sequence[float]], objectives: Sequence[str]) -> set[Any]:
    """Keys of what nothing dominates.

    Args:
        means: key to a value for each objective.
        objectives: which say which way is better.
    """
    signs = np.array([1 if DIRECTIONS[name] == "maximize" else -1 for name in objectives])
    values = {key: signs * np.array(found) for key, found in means.items()}

    def beaten(one: np.ndarray) -> bool:
        return any((other >= one).all() and (other > one).any() for other in values.values())

    return {key for key, one in values.items() if not beaten(one)}


def cell(name: str, values: Sequence[float]) -> str:
    """The mean, and half its interval where there are several values."""
    mean, half = interval(values)
    digits = DIGITS.get(name, 2)
    return f"{mean:.{digits}f}" + ("" if np.isnan(half) or not half else f" ± {half:.{digits}f}")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
