"""Tables, paired intervals and a picture of compared methods."""

import json
import shlex
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hf_mpq.report import pareto_front
from hf_mpq.report.figures.intervals import paired
from hf_mpq.sweep.table import cell

SHOWN = {
    "score": "score",
    "unseen_kl": "KL",
    "unseen_agreement": "agreement %",
    "code_bits": "encoder bits",
    "megabytes": "MB",
}


def write_report(
    rows: list[dict], wanted: list[dict], folder: Path, settings: Mapping[str, Any], against: str = "mpq"
) -> None:
    """`report.md` and `pareto.png`: what was asked for, and what of it is missing.

    Args:
        settings: arguments that are not at their defaults, for the commands of what is missing.
        against: `method` or `method (variant)` that the paired intervals are against.
    """
    text = "\n\n".join([_table(rows, wanted), _intervals(wanted, folder, against), _missing(rows, wanted, settings)])
    (folder / "report.md").write_text(text.strip() + "\n")
    _picture(rows, wanted, folder / "pareto.png")
    print(text)


def _same(row: dict, key: dict) -> bool:
    return all(row.get(name) == value for name, value in key.items())


def _groups(rows: list[dict], wanted: list[dict]) -> dict[tuple, list[dict]]:
    """Rows by task, budget and method."""
    found = defaultdict(list)
    for key in wanted:
        row = next((row for row in rows if _same(row, key)), None)
        if row is not None:
            found[key["task"], key["budget"], _name(key)].append(row)
    return found


def _name(key: dict) -> str:
    return key["method"] + (f" ({key['variant']})" if key["variant"] else "")


def _table(rows: list[dict], wanted: list[dict]) -> str:
    lines = [
        "| task | budget | method | " + " | ".join(SHOWN.values()) + " | seeds | s a run |",
        "|---" * (len(SHOWN) + 5) + "|",
    ]
    for task in dict.fromkeys(key["task"] for key in wanted):
        plain = next((row for row in rows if row["task"] == task and row["method"] == "float"), None)
        if plain is not None:
            lines.append(f"| {task} | | float | {plain['score']:.2f} | | | 32 | {plain['megabytes']:.2f} | | |")
    for (task, budget, method), found in _groups(rows, wanted).items():
        cells = [cell(name, [row[name] for row in found]) for name in SHOWN]
        seconds = [row["seconds"] for row in found if row["seconds"]]
        spent = f"{np.median(seconds):.0f}" if seconds else "?"
        lines.append(f"| {task} | {budget} | {method} | {' | '.join(cells)} | {len(found)} | {spent} |")
    return "\n".join(lines)


def _intervals(wanted: list[dict], folder: Path, against: str = "mpq") -> str:
    """How much nearer to the float model one method is than each other one, on the same rows."""
    arrays = {_name(key) + key["task"] + key["budget"]: [] for key in wanted}
    for key in wanted:
        file = folder / "kl" / ("-".join(str(part) for part in key.values() if part != "") + ".npy")
        if file.exists():
            arrays[_name(key) + key["task"] + key["budget"]].append(np.load(file))
    lines = []
    for task, budget, method in dict.fromkeys((key["task"], key["budget"], _name(key)) for key in wanted):
        ours, theirs = arrays.get(against + task + budget, []), arrays[method + task + budget]
        seeds = min(len(ours), len(theirs))
        if method != against and seeds:
            mean, low, high = paired(theirs[:seeds], ours[:seeds])
            lines.append(
                f"- {task}, {budget}: KL of {method} minus that of {against}: {mean:.4f} ({low:.4f} to {high:.4f}), "
                f"{seeds} seed(s), {len(ours[0])} rows"
            )
    return "\n".join(lines)


def _missing(rows: list[dict], wanted: list[dict], settings: Mapping[str, Any]) -> str:
    absent = [key for key in wanted if not any(_same(row, key) for row in rows)]
    return "\n".join(_line(key, _settings_of_variant(rows, key), settings) for key in absent)


def _line(key: dict, known: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> str:
    if known is None and key["variant"] and not settings.keys() & {"config", "stages"}:
        return (
            f"- not run, and no row says what `{key['variant']}` changes (--config, --stages): {command(key, settings)}"
        )
    return f"- not run: `{command(key, settings if known is None else known)}`"


def _settings_of_variant(rows: list[dict], key: dict) -> Mapping[str, Any] | None:
    """Settings of a run that differs by task, budget or seed only, of the same task first."""
    same = {name: key[name] for name in ("method", "variant")}
    like = [row for row in rows if "settings" in row and _same(row, same)]
    like.sort(key=lambda row: row["task"] != key["task"])
    return like[0]["settings"] if like else None


def command(key: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What makes the row of a key, to be pasted into a shell.

    Args:
        settings: arguments that are not at their defaults, name to value; dictionaries are written as JSON.
    """
    named = {
        "tasks": key["task"],
        "methods": key["method"],
        "budgets": key["budget"],
        "seeds": key["seed"],
        **({"variant": key["variant"]} if key["variant"] else {}),
        **settings,
    }
    words = [
        f"--{name} {shlex.quote(json.dumps(value) if isinstance(value, dict) else str(value))}"
        for name, value in named.items()
    ]
    return " ".join(["python benchmarks/compare_methods.py", *words])


def _picture(rows: list[dict], wanted: list[dict], file: Path) -> None:
    """Divergence over megabytes for each task, with intervals over seeds."""
    shown = [row for row in rows if any(_same(row, key) for key in wanted)]
    if shown:
        pareto_front(shown, y="unseen_kl", lower_is_better=True).savefig(file, dpi=150)
