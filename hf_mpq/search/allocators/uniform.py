"""The plain baseline: one precision for everything, or two neighbouring ones at random."""

from dataclasses import dataclass

import numpy as np

from ...core import Assignment, PrecisionSpace
from ...cost import Limits
from .base import ALLOCATORS, Allocator, Evaluate, Scores
from .exact_search import ExactSearch
from .knapsack import Choice
from .start import begin, most_within, no_scores


@ALLOCATORS.register("uniform")
@dataclass(frozen=True)
class Uniform(Allocator):
    """The highest precision that all open sub-groups can have within the budget.

    A sub-group that lacks this candidate takes its next lower one, or its lowest above 0. Nothing is pruned unless even
    the lowest precision is too much. `scores` and `evaluate` are not used.

    Args:
        fraction: give random whole sub-groups the next precision, as many as fit: the fair baseline of a mixed
            assignment at the same bytes.
        seed: of the random order.
    """

    needs_scores = False
    reads_scores = False

    fraction: bool = False
    seed: int = 0

    def choose(
        self,
        space: PrecisionSpace,
        limits: Limits,
        scores: Scores | None = None,
        evaluate: Evaluate | None = None,
        progress: bool = False,
    ) -> Assignment:
        search = begin(space, limits, no_scores(space))
        search.smallest()
        levels = _levels(search)
        position, choice = most_within(search, len(levels) - 1, lambda number: levels[number])
        if self.fraction and position + 1 < len(levels):
            choice = _raise_some(search, choice, levels[position + 1], np.random.default_rng(self.seed))
        return search.units.assignment(choice)


def _levels(search: ExactSearch) -> list[Choice]:
    """The choice at every precision, ascending; first the cheapest one where some unit may be pruned. Inputs whose bits
    the budget does not count have their highest in all."""
    candidates = search.units.candidates  # (units, choices), infinite padding
    precisions = sorted({bits for bits in candidates[np.isfinite(candidates)].tolist() if bits > 0})
    allowed = np.where(candidates > 0, candidates, np.inf)
    levels = []
    for bits in precisions:
        below = np.where(allowed <= bits, allowed, -np.inf)
        lowest = np.where(np.isfinite(allowed).any(axis=1), allowed.argmin(axis=1), 0)
        levels.append(np.where(np.isfinite(below).any(axis=1), below.argmax(axis=1), lowest))
    pruned = [np.zeros(len(candidates), int)] if (candidates[:, :1] == 0).any() or not levels else []
    highest = np.isfinite(candidates).sum(axis=1) - 1
    return [np.where(search.costless, highest, level) for level in pruned + levels]


def _raise_some(search: ExactSearch, choice: Choice, higher: Choice, random: np.random.Generator) -> Choice:
    """Units in a random order, as many as fit; then, of what did not fit, the smaller ones."""
    order, every = random.permutation(np.flatnonzero(choice != higher)), np.arange(len(choice))
    step = search.knapsack.cost[every, higher] - search.knapsack.cost[every, choice]
    while len(order):

        def raised(count: int, start: Choice = choice, order: Choice = order) -> Choice:
            attempt = start.copy()
            attempt[order[:count]] = higher[order[:count]]
            return attempt

        count, choice = most_within(search, len(order), raised)
        if count == len(order):
            break
        kind, order = search.units.kinds[order[count]], order[count:]  # this kind does not fit any more
        order = order[(search.units.kinds[order] != kind) & (step[order] <= search.room(choice))]
    return choice
