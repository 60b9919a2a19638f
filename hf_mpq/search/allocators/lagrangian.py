"""Exact allocation of a budget over thousands of sub-groups by Lagrangian relaxation."""

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from ...core import Assignment, Budget, PrecisionSpace
from ...cost import CostModel, measure
from .base import ALLOCATORS, Scores
from .exact_search import ExactSearch
from .start import spending
from .units import Units


@dataclass(frozen=True)
class LagrangianResult:
    """An assignment with what is known about how good it is.

    Attributes:
        assignment: the best found.
        score: its total score.
        bound: no assignment within the limit has a lower score, if maps cost what they do here and dead columns save in
            proportion. Certain where nothing is linked.
        cost: its exact cost.
        limit: what the cost must not exceed, in the same unit.
        unit: of cost and limit.
        multiplier: score that one more unit of cost would save.
        count: sub-groups chosen; tied ones count once.
    """

    assignment: Assignment
    score: float
    bound: float
    cost: float
    limit: float
    unit: str
    multiplier: float
    count: int

    @property
    def gap(self) -> float:
        """Share of the score by which it may be above the optimum."""
        return max(0.0, self.score - self.bound) / abs(self.score) if self.score else 0.0

    @property
    def summary(self) -> str:
        """Count, cost and gap in a line."""
        return f"{self.count:,} sub-groups, {spending(self.cost, self.limit, self.unit)}, gap {self.gap:.2%}"

    def __str__(self) -> str:
        return self.summary


@ALLOCATORS.register("lagrangian")
def allocate(
    space: PrecisionSpace,
    cost: CostModel,
    budget: Budget | str | float,
    scores: Scores | None = None,
    evaluate: Callable[[Assignment], float] | None = None,
    progress: bool = False,
) -> Assignment:
    """The assignment of `solve`; see `Allocator` for the arguments. `evaluate` is not called."""
    result = solve(space, cost, budget, scores)
    if progress:
        Console(stderr=True).print(f"lagrangian: {result.summary}")
    return result.assignment


def solve(
    space: PrecisionSpace, cost: CostModel, budget: Budget | str | float, scores: Scores | None
) -> LagrangianResult:
    """Minimise the total score within a budget, as measured by the exact cost.

    Each sub-group is taken alone first (Everett, 1963; hulls as in Sinha and Zoltners, 1979). Then the prices are
    corrected around the result, because a pruned row also saves the columns that read it, and it is solved again; last,
    what the exact cost leaves over is spent until no single move fits.

    Raises:
        BudgetError, ValueError: as `Allocator` says.
    """
    if scores is None:
        raise ValueError("the lagrangian allocator needs scores; compute them with a scorer first")
    measured, limit = measure(cost, budget)
    search = ExactSearch(Units(space, scores), measured, limit)
    choice, spent = search.run()
    bound, multiplier = search.bound(choice, spent)
    return LagrangianResult(search.units.assignment(choice), search.knapsack.total_score(choice), bound, spent, limit,
                            measured.unit, multiplier, len(choice))  # fmt: skip
