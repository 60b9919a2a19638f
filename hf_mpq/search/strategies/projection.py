"""From what open gates say to one assignment, within a budget where there is one."""

from collections.abc import Mapping

from torch import Tensor

from ...core import Assignment, Budget, PrecisionSpace
from ...cost import CostModel
from ..allocators import allocate
from ..allocators.units import Units


def likeliest(
    space: PrecisionSpace,
    reluctances: Mapping[str, Tensor],
    cost: CostModel | None = None,
    budget: Budget | str | float | None = None,
) -> Assignment:
    """The most probable assignment: of all, or of those that meet a budget, sub-groups taken as independent.

    Sub-groups of tied matrices are decided together. Where the most probable assignment of all meets the budget, it is
    the result.

    Args:
        space: what may be chosen.
        reluctances: by matrix name, `(groups, candidates)`, as the gates of open matrices give them.
        cost: what the budget is measured with.
        budget: a `Budget`, its text, or a number in the unit of `cost`; None for no limit.

    Raises:
        BudgetError: when nothing meets the budget.
        ValueError: when a matrix is open, but there is no reluctance of its gate.
    """
    scores = {name: _reluctance(name, reluctances) for name in space.open_choices}
    if cost is not None and budget is not None:
        return allocate(space, cost, budget, scores)
    units = Units(space, scores)
    return units.assignment(units.score.argmin(axis=1))


def _reluctance(name: str, reluctances: Mapping[str, Tensor]) -> Tensor:
    if name not in reluctances:
        raise ValueError(f"{name!r} is open, and its gate says nothing of its candidates")
    return reluctances[name]
