"""From what open gates say to one assignment, within a budget where there is one."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ...core import Assignment, Budget, PrecisionSpace, Usage
from ...cost import CostModel
from ..allocators import allocate
from ..allocators.units import Units

SMALLEST = 1e-30
"""Probabilities count as at least this, so that every precision stays possible."""


def likeliest(
    space: PrecisionSpace,
    usages: Mapping[str, Usage],
    cost: CostModel | None = None,
    budget: Budget | str | float | None = None,
) -> Assignment:
    """The most probable assignment: of all, or of those that meet a budget, sub-groups taken as independent.

    Sub-groups of tied matrices are decided together. Where the most probable assignment of all meets the budget, it is
    the result.

    Args:
        space: what may be chosen.
        usages: by matrix name; those of open matrices have probabilities.
        cost: what the budget is measured with.
        budget: a `Budget`, its text, or a number in the unit of `cost`; None for no limit.

    Raises:
        BudgetError: when nothing meets the budget.
        ValueError: when a matrix is open, but its gate gives no probabilities.
    """
    scores = {name: _improbability(name, usages) for name, spec in space.weights.items() if spec.bits is None}
    if cost is not None and budget is not None:
        return allocate(space, cost, budget, scores)
    units = Units(space, scores)
    return units.assignment(units.score.argmin(axis=1))


def _improbability(name: str, usages: Mapping[str, Usage]) -> NDArray[np.float64]:
    """Minus the logarithm of each candidate's probability, `(groups, candidates)`."""
    usage = usages.get(name)
    if usage is None or usage.probabilities is None:
        raise ValueError(f"the gate of {name!r} gives no probabilities of its candidates")
    return -usage.probabilities.detach().cpu().double().clamp(min=SMALLEST).log().numpy()
