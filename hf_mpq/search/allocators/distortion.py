"""The fewest bits whose score is below a threshold that all sub-groups share."""

from dataclasses import dataclass

import numpy as np

from ...core import Assignment, BudgetError, PrecisionSpace
from ...cost import Limits
from .base import ALLOCATORS, Allocator, Evaluate, Scores
from .exact_search import ExactSearch
from .knapsack import Choice
from .start import begin, most_within, needed


@ALLOCATORS.register("distortion")
@dataclass(frozen=True)
class BelowThreshold(Allocator):
    """`b = min{b : score(b) < tau}`, the highest candidate where there is none (GHOST, Zhang et al., 2023).

    The same as making the largest score as small as possible. Tied sub-groups are taken by the sum of their scores.
    Inputs whose bits the budget does not count have their highest. `evaluate` is not called.

    Args:
        tau: the threshold as it is; None takes the smallest that meets the budget. One that needs more than the budget
            is a BudgetError.
    """

    tau: float | None = None

    def choose(
        self,
        space: PrecisionSpace,
        limits: Limits,
        scores: Scores | None = None,
        evaluate: Evaluate | None = None,
        progress: bool = False,
    ) -> Assignment:
        search = begin(space, limits, needed(scores, "distortion"))
        search.smallest()
        score = search.units.score
        if self.tau is not None:
            return search.units.assignment(self._within(search, _chosen(search, self.tau)))
        thresholds = np.unique(score[np.isfinite(score)])[::-1]  # falling: the cost rises along them
        thresholds = np.concatenate([[np.inf], thresholds])
        _, choice = most_within(search, len(thresholds) - 1, lambda number: _chosen(search, float(thresholds[number])))
        return search.units.assignment(choice)

    def _within(self, search: ExactSearch, choice: Choice) -> Choice:
        for limit, spent in zip(search.limits, search.spent(choice)):
            if spent > limit.most * (1 + 1e-12):
                raise BudgetError(
                    f"tau={self.tau} needs {spent:,.6g} {limit.cost.unit}, more than the budget of "
                    f"{limit.most:,.6g}; give more, or leave tau out"
                )
        return choice


def _chosen(search: ExactSearch, threshold: float) -> Choice:
    """The first choice of each unit below the threshold, else its last one."""
    score = search.units.score
    below, last = score < threshold, np.isfinite(score).sum(axis=1) - 1
    return np.where(below.any(axis=1) & ~search.costless, below.argmax(axis=1), last)
