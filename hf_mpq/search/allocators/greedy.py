"""One step after the other: the cheapest harm, or the best gain, for each unit of cost."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core import Assignment, PrecisionSpace
from ...cost import Limits
from .base import ALLOCATORS, Allocator, Evaluate, Scores
from .exact_search import ExactSearch
from .knapsack import Array, Choice
from .start import begin, most_within, needed


@ALLOCATORS.register("greedy")
@dataclass(frozen=True)
class Greedy(Allocator):
    """Move one sub-group by one candidate at a time; what is left over is filled with moves that fit.

    Args:
        direction: `"down"` begins with the highest precisions and gives up what hurts least per cost saved; `"up"`
            begins with the cheapest and takes what gains most per cost. `evaluate` is not called.

    Raises:
        ValueError: for another direction.
    """

    direction: str = "down"

    def __post_init__(self) -> None:
        if self.direction not in ("down", "up"):
            raise ValueError(f"direction must be 'down' or 'up', got {self.direction!r}")

    def choose(
        self,
        space: PrecisionSpace,
        limits: Limits,
        scores: Scores | None = None,
        evaluate: Evaluate | None = None,
        progress: bool = False,
    ) -> Assignment:
        search = begin(space, limits, needed(scores, "greedy"))
        search.smallest()
        start, units, targets = _steps(search, self.direction == "up")
        steps = len(units)
        if self.direction == "up":
            _, choice = most_within(search, steps, lambda count: _after(start, units[:count], targets[:count]))
        else:
            _, choice = most_within(search, steps, lambda rest: _after(start, units[: steps - rest], targets))
        return search.units.assignment(search.fill(choice))


def _after(start: Choice, units: Choice, targets: Choice) -> Choice:
    choice = start.copy()
    choice[units] = targets[: len(units)]  # of a unit named twice the later step stays
    return choice


def _steps(search: ExactSearch, upwards: bool) -> tuple[Choice, Choice, Choice]:
    """Where to begin, and unit and reached choice of every step in the order in which they are taken.

    A unit's steps come in order: none can come before the one that leads to it, so each has the worst ratio so far.
    """
    ladder, cost, score = _ladders(search)
    if not upwards:
        ladder, cost, score = _to_front(np.flip(ladder, axis=1), np.flip(cost, axis=1), np.flip(score, axis=1))
    price, change = (np.abs(np.diff(np.where(np.isfinite(part), part, np.nan), axis=1)) for part in (cost, score))
    there = np.isfinite(price) & np.isfinite(change)
    ratio = np.divide(change, np.maximum(price, 1e-300), out=np.full_like(price, np.nan), where=there)
    key = (
        np.minimum.accumulate(np.where(there, ratio, 0), axis=1)
        if upwards
        else np.maximum.accumulate(np.where(there, ratio, 0), axis=1)
    )
    units, positions = np.nonzero(there)
    order = np.lexsort((positions, -key[there] if upwards else key[there]))
    units, positions = units[order], positions[order]
    return ladder[:, 0].copy(), units, ladder[units, positions + 1]


def _ladders(search: ExactSearch) -> tuple[Choice, Array, Array]:
    """Choices of each unit from cheap to dear, their cost and score, each `(units, choices)`; infinite padding last."""
    knapsack = search.knapsack
    worse = _worse_for_the_same(knapsack.cost, knapsack.score)
    cost, score = (np.where(worse, np.inf, table) for table in (knapsack.cost, knapsack.score))
    ladder = np.argsort(cost, axis=1, kind="stable")
    return ladder, np.take_along_axis(cost, ladder, 1), np.take_along_axis(score, ladder, 1)


def _worse_for_the_same(cost: Array, score: Array) -> NDArray[np.bool_]:
    """Choices beside which another costs the same and is better: a step to them gives up something for nothing."""
    same, better = cost[:, :, None] == cost[:, None], score[:, None] < score[:, :, None]
    alike = score[:, None] == score[:, :, None]
    return (same & (better | alike & np.triu(np.ones(same.shape[1:], bool), 1))).any(axis=2)


def _to_front(ladder: Choice, cost: Array, score: Array) -> tuple[Choice, Array, Array]:
    """Move the padding of reversed ladders behind their choices again."""
    order = np.argsort(~np.isfinite(cost), axis=1, kind="stable")
    return np.take_along_axis(ladder, order, 1), np.take_along_axis(cost, order, 1), np.take_along_axis(score, order, 1)
