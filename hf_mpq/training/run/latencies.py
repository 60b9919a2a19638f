"""What a budget in milliseconds was measured by, kept with the run."""

import json
from pathlib import Path

from ...core import Budget, PrecisionSpace, read_json
from ...core.files import write_text
from ...cost import LatencyTable, limits_of


def write_latencies(file: Path, space: PrecisionSpace, budget: Budget) -> None:
    """Measure, unless the file is there; it is whole or not there."""
    if file.exists():
        return
    ((cost, _),) = limits_of(space, (budget,))
    write_text(file, json.dumps(cost.latencies.to_dict(), indent=1))


def read_latencies(file: Path) -> LatencyTable:
    """What `write_latencies` wrote."""
    return LatencyTable.from_dict(read_json(file, "remove it, and it is measured again"))
