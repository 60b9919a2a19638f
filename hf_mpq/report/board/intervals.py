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
            found += () if source.intervals else _of_arrays(source)
    return sorted(found, key=lambda pair: (pair.source, pair.task, bits_of(pair.budget), pair.budget, pair.mean))


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name in Paired.__dataclass_fields__}


def _of_arrays(source: Source) -> list[Paired]:
    against, arrays = source.about.get("against", "mpq"), {}
    for row in source.rows if source.folder else ():
        file = source.folder / "kl" / f"{'-'.join(str(row[key]) for key in KEYS if row.get(key, '') != '')}.npy"
        if row["method"] != FLOAT and file.exists():
            name = row["method"] + (f" ({row['variant']})" if row.get("variant") else "")
            arrays.setdefault((row["task"], row["budget"], name), {})[row["seed"]] = np.load(file)
    found = []
    for (task, budget, name), theirs in arrays.items():
        ours = arrays.get((task, budget, against), {})
        seeds = sorted(theirs.keys() & ours.keys())
        if name != against and seeds:
            mean, low, high = paired([theirs[seed] for seed in seeds], [ours[seed] for seed in seeds])
            rows = len(ours[seeds[0]])
            found.append(Paired(source.name, task, budget, name, against, mean, low, high, len(seeds), rows))
    return found
