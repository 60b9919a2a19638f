"""Rows that differ by their seed only as one line, beside the float model of the same source."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

from ..figures.intervals import interval
from .sources import Source

FLOAT = "float"
MODEL = "all-MiniLM-L6-v2"
"""Of rows that name none, which `benchmarks/compare_methods.py` wrote before it had another."""
TASKS = {
    "cola": "CoLA, Matthews",
    "conll2003": "CoNLL-2003, F1",
    "mnli": "MNLI, accuracy",
    "mrpc": "MRPC, F1",
    "qnli": "QNLI, accuracy",
    "qqp": "QQP, F1",
    "rte": "RTE, accuracy",
    "squad": "SQuAD, F1",
    "sst2": "SST-2, accuracy",
    "stsb": "STS-B, Spearman",
}
"""What is scored, in percent."""
NEAR_FLOAT = ("unseen_kl", "kl")


@dataclass(frozen=True)
class Measured:
    """A mean over seeds; `half` is half its 95 % bootstrap interval, None for one seed."""

    mean: float
    half: float | None = None

    def text(self, digits: int) -> str:
        """Such as `85.21 ± 0.97`."""
        spread = f" ± {self.half:.{digits}f}" if self.half else ""
        return f"{self.mean:.{digits}f}{spread}"


@dataclass(frozen=True)
class Line:
    """One method at one budget on one task.

    Attributes:
        source: name of the source that it is of.
        model, task, budget, method, variant: what was run; `method` is `"float"` for what is compressed.
        score: of the dev set, in percent.
        retained: the score in percent of that of the source's float model; None without one.
        kl: divergence from the float model, in nats a row.
        agreement: with the float model's labels, in percent of the rows.
        code_bits: mean bits of the encoder's codes.
        megabytes: of the packed file, 10^6 bytes.
        seeds: how many runs.
        origin: `command`, `commit`, `date`, `machine`, `versions`, `data` of the first row; None where it says nothing.
    """

    source: str
    model: str
    task: str
    budget: str
    method: str
    variant: str
    score: Measured | None
    retained: Measured | None
    kl: Measured | None
    agreement: Measured | None
    code_bits: Measured | None
    megabytes: Measured | None
    seeds: int
    origin: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Method and variant."""
        return self.method + (f" ({self.variant})" if self.variant else "")


ORIGIN = ("command", "commit", "date", "machine", "versions", "data")


def lines_of(sources: Iterable[Source]) -> list[Line]:
    """The lines of all sources that compare methods, the newest first: within a source by task, float first, then by
    budget and distance from the float model.

    Rows of different sources never share a line: they may have other float models, machines and settings.
    """
    found = [_of_source(source) for source in sources if source.compares_methods and source.rows]
    return [line for lines in sorted(found, key=lambda lines: max(map(_age, lines)), reverse=True) for line in lines]


def _of_source(source: Source) -> list[Line]:
    groups = defaultdict(list)
    for row in source.rows:
        key = (model_of(row), *(row.get(name) or "" for name in ("task", "budget", "method", "variant")))
        groups[key].append(row)
    whole = {(model, task): rows for (model, task, _, method, _), rows in groups.items() if method == FLOAT}
    lines = [_line(source.name, key, rows, whole.get(key[:2], ())) for key, rows in groups.items()]
    return sorted(lines, key=_order)


def model_of(row: Mapping[str, Any]) -> str:
    """What a row is of: the model that it names, else the end of its place among the settings, without the task."""
    place = (row.get("settings") or {}).get("model") or MODEL
    parts = [part.replace("{task}", "").strip("-_. ") for part in place.split("/")]
    return row.get("model") or next((part for part in reversed(parts) if part), MODEL)


def _line(source: str, key: tuple, rows: Sequence[Mapping], whole: Sequence[Mapping]) -> Line:
    model, task, budget, method, variant = key
    score, reference = measured(rows, "score"), measured(whole, "score") or measured(rows, "float_score")
    retained = None
    if score and reference and reference.mean:
        share = 100 / reference.mean
        retained = Measured(score.mean * share, None if score.half is None else score.half * share)
    return Line(
        source,
        model,
        task,
        budget,
        method,
        variant,
        score,
        retained,
        measured(rows, *NEAR_FLOAT),
        measured(rows, "unseen_agreement", "agreement"),
        measured(rows, "code_bits"),
        measured(rows, "megabytes"),
        sum(row.get("seeds") or 1 for row in rows),
        {name: _first(rows, name) or (_data(rows) if name == "data" else None) for name in ORIGIN},
    )


def _first(rows: Iterable[Mapping[str, Any]], name: str) -> Any:
    return next((row[name] for row in rows if row.get(name)), None)


def _data(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Of rows that count theirs."""
    counts = {"train_rows": "to train on", "dev_rows": "scored", "unseen_rows": "for KL"}
    return (
        ", ".join(f"{_first(rows, name)} rows {words}" for name, words in counts.items() if _first(rows, name)) or None
    )


def measured(rows: Sequence[Mapping[str, Any]], *names: str) -> Measured | None:
    """Mean over rows of the first of these fields that any of them has; None where none has.

    A row that is itself a mean of several seeds says so by `seeds`, and its half interval by `<name>_half`.
    """
    for name in names:
        known = [row for row in rows if row.get(name) is not None]
        if len(known) == 1:
            return Measured(float(known[0][name]), known[0].get(f"{name}_half"))
        if known:
            mean, half = interval(row[name] for row in known)
            return Measured(mean, None if isnan(half) else half)
    return None


def _order(line: Line) -> tuple:
    size, distance = line.megabytes, line.kl
    return (
        line.model,
        line.task,
        line.method != FLOAT,
        bits_of(line.budget),
        line.budget,
        distance.mean if distance else float("inf"),
        -line.score.mean if line.score else 0.0,
        size.mean if size else float("inf"),
        line.name,
    )


def bits_of(budget: str) -> float:
    """What a budget in bits is sorted by, largest first; others come after."""
    head = budget.partition("bits")[0]
    try:
        return -float(head)
    except ValueError:
        return float("inf")


def _age(line: Line) -> tuple:
    return line.origin["commit"] is not None, line.origin["date"] or "", line.megabytes is not None, line.source


def chosen(lines: Iterable[Line], **wanted: str | Iterable[str] | None) -> list[Line]:
    """Those whose attributes are among the wanted ones: `chosen(lines, task="mrpc", method=["mpq", "uniform"])`.

    None and nothing mean all; a budget leaves out no float model.

    Raises:
        ValueError: lines have no such attribute.
    """
    known = ("source", "model", "task", "budget", "method", "variant", "name")
    wrong = sorted(set(wanted) - set(known))
    if wrong:
        raise ValueError(f"lines cannot be chosen by {wrong[0]!r}: give one of {', '.join(known)}")
    sets = {name: {one} if isinstance(one, str) else set(one) for name, one in wanted.items() if one}
    return [line for line in lines if all(_fits(line, name, values) for name, values in sets.items())]


def _fits(line: Line, name: str, values: set[str]) -> bool:
    return getattr(line, name) in values or (line.method == FLOAT and name in ("budget", "method", "name"))
