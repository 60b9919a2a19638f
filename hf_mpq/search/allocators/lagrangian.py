"""Exact allocation of a budget over thousands of sub-groups by Lagrangian relaxation."""

from dataclasses import dataclass

from ...core import Assignment, Budget, PrecisionSpace, say
from ...cost import CostModel, measure
from .base import ALLOCATORS, Allocator, Evaluate, Scores
from .exact_search import ExactSearch
from .start import BoundedResult, needed, spending
from .units import Units


@dataclass(frozen=True)
class LagrangianResult(BoundedResult):
    """What the relaxation found. The bound is certain where nothing is linked: elsewhere maps are taken to cost what
    they do here, dead columns to save in proportion, and weights and open inputs to meet each other as they do here.

    Attributes:
        cost: its exact cost.
        limit: what the cost must not exceed, in the same unit.
        unit: of cost and limit.
        multiplier: score that one more unit of cost would save.
    """

    cost: float
    limit: float
    unit: str
    multiplier: float

    @property
    def spent(self) -> str:
        return spending(self.cost, self.limit, self.unit)


@ALLOCATORS.register("lagrangian")
@dataclass(frozen=True)
class Lagrangian(Allocator):
    """The assignment of `solve`. `evaluate` is not called."""

    def __call__(
        self,
        space: PrecisionSpace,
        cost: CostModel,
        budget: Budget | str | float,
        scores: Scores | None = None,
        evaluate: Evaluate | None = None,
        progress: bool = False,
    ) -> Assignment:
        result = solve(space, cost, budget, scores)
        if progress:
            say(f"lagrangian: {result.summary}")
        return result.assignment


allocate = Lagrangian()
"""The default allocator: a function of the space, a cost, a budget and scores; see `Allocator`."""


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
    scores = needed(scores, "lagrangian")
    measured, limit = measure(cost, budget)
    search = ExactSearch(Units(space, scores), measured, limit)
    choice, spent = search.run()
    bound, multiplier = search.bound(choice, spent)
    score = search.knapsack.total_score(choice)
    return LagrangianResult(
        search.units.assignment(choice), score, bound, len(choice), spent, limit, measured.unit, multiplier
    )
