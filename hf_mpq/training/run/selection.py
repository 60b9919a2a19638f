"""The selection rule: of several assignments, the one that trains best for a short while."""

from collections.abc import Callable, Mapping

from ...core import Assignment
from ...runs.record import RunRecord


def select(candidates: Mapping[str, Assignment], trial: Callable[[Assignment], float], record: RunRecord) -> Assignment:
    """The candidate of least divergence; each result is kept at once, so an interrupted selection goes on.

    Args:
        candidates: name to assignment.
        trial: trains one shortly and measures its divergence from the teacher.
        record: of the run; its `selection` gets every divergence and the chosen name.
    """
    found = dict((record.selection or {}).get("divergence", {}))
    for name, assignment in candidates.items():
        if name not in found:
            found[name] = trial(assignment)
            record.select({"divergence": found, "chosen": None})
    chosen = min(candidates, key=found.__getitem__)
    record.decide(candidates[chosen])  # before its name: a run that stops in between compares what is kept again
    record.select({"divergence": found, "chosen": chosen})
    return candidates[chosen]
