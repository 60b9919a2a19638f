"""How much nearer to the float model one method is than another, on the same rows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..figures.intervals import paired
from .lines import FLOAT, bits_of
from .sources import Source

KEYS = ("task", "method", "variant", "budget", "seed")
"""Of a run, in the order in which they name its files."""
AGAINST = "mpq"
Arrays = dict[tuple[str, str, str], dict[int, np.ndarray]]


@dataclass(frozen=True)
class Paired:
    """Divergence of `method` minus that of `against`: mean, and 95 % bootstrap interval over rows and seeds.

    Attributes:
        source, task, budget: where it was measured.
        method, against: names, with the variant in brackets.
        seeds, rows: how many; None where it is not told.
    """

    source: str
    task: str
    budget: str
    method: str
    against: str
    mean: float
    low: float
    high: float
    seeds: int | None = None
    rows: int | None = None


def pairs_of(sources: Iterable[Source]) -> list[Paired]:
    """Of all sources that compare methods: those that `intervals.jsonl` has, or else those of the arrays in `kl/`.

    What the others are compared with is `against` of `about.yaml`, by default `mpq`.
    """
    found = []
    for source in sources:
        if source.compares_methods:
            found += [Paired(**_known({**row, "source": source.name})) for row in source.intervals]
            if not source.intervals:
                found += pair_arrays(source.name, arrays_of(source), source.about.get("against", AGAINST))
    return sorted(found, key=lambda pair: (pair.source, pair.task, bits_of(pair.budget), pair.budget, pair.mean))


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name in Paired.__dataclass_fields__}


def arrays_of(source: Source) -> Arrays:
    """Divergences of the rows that a source keeps in `kl/`: of task, budget and name those of each seed."""
    arrays: Arrays = {}
    for row in source.rows if source.folder else ():
        run = row.get("run") or "-".join(str(row[key]) for key in KEYS if row.get(key, "") != "")
        file = source.folder / "kl" / f"{run}.npy"
        if row.get("method", FLOAT) != FLOAT and file.exists():
            name = row["method"] + (f" ({row['variant']})" if row.get("variant") else "")
            arrays.setdefault((row["task"], row["budget"], name), {})[row["seed"]] = np.load(file)
    return arrays


def pair_arrays(source: str, arrays: Arrays, against: str = AGAINST) -> list[Paired]:
    """Differences over the seeds that both have.

    Args:
        source: name of what they are of.
        against: name of what the others are compared with.
    """
    found = []
    for (task, budget, name), theirs in arrays.items():
        ours = arrays.get((task, budget, against), {})
        seeds = sorted(theirs.keys() & ours.keys())
        if name != against and seeds:
            mean, low, high = paired([theirs[seed] for seed in seeds], [ours[seed] for seed in seeds])
            rows = len(ours[seeds[0]])
            found.append(Paired(source, task, budget, name, against, mean, low, high, len(seeds), rows))
    return found
