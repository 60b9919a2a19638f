"""The fewest bits whose score is below a threshold that all sub-groups share."""

from collections.abc import Callable

import numpy as np

from ...core import Assignment, Budget, BudgetError, PrecisionSpace
from ...cost import CostModel
from .base import ALLOCATORS, Scores
from .start import begin, largest_within, needed


@ALLOCATORS.register("distortion")
def allocate_below_threshold(
    space: PrecisionSpace,
    cost: CostModel,
    budget: Budget | str | float,
    scores: Scores | None = None,
    evaluate: Callable[[Assignment], float] | None = None,
    tau: float | None = None,
    progress: bool = False,
) -> Assignment:
    """`b = min{b : score(b) < tau}`, the highest candidate where there is none (GHOST, Zhang et al., 2023).

    The same as making the largest score as small as possible. Tied sub-groups are taken by the sum of their scores.
    `evaluate` is not called.

    Args:
        tau: the threshold as it is; None takes the smallest that meets the budget.

    Raises:
        BudgetError, ValueError: as `Allocator` says; also when a given `tau` needs more than the budget.
    """
    search = begin(space, cost, budget, needed(scores, "distortion"))
    search.smallest()
    score = search.units.score

    def chosen(threshold: float):
        below = score < threshold
        last = np.isfinite(score).sum(axis=1) - 1
        return np.where(below.any(axis=1), below.argmax(axis=1), last)

    if tau is not None:
        choice, spent = chosen(tau), search.spent(chosen(tau))
        if spent > search.limit:
            raise BudgetError(f"tau={tau} needs {spent:,.6g} {search.cost.unit}, more than the budget of "
                              f"{search.budget:,.6g}; give more, or leave tau out")  # fmt: skip
        return search.units.assignment(choice)
    thresholds = np.unique(score[np.isfinite(score)])[::-1]  # falling: the cost rises along them
    thresholds = np.concatenate([[np.inf], thresholds])
    _, choice = largest_within(search, len(thresholds) - 1, lambda number: chosen(thresholds[number]))
    return search.units.assignment(choice)
