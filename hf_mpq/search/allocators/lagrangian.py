"""Exact allocation of budgets over thousands of sub-groups by Lagrangian relaxation."""

from dataclasses import dataclass

from ...core import Assignment, PrecisionSpace, say
from ...cost import CostModel, Limits, given_limits
from .balance import balanced
from .base import ALLOCATORS, Allocator, Evaluate, Given, Scores
from .start import BoundedResult, needed
from .units import Units


@dataclass(frozen=True)
class LagrangianResult(BoundedResult):
    """What the relaxation found. The bound is certain where nothing is linked: elsewhere maps are taken to cost what
    they do here, dead columns to save in proportion, and weights and open inputs to meet each other as they do here.

    Attributes:
        multiplier: score that one more unit of cost would save; with several limits, a cost of all of them together.
    """

    multiplier: float

    @property
    def cost(self) -> float:
        """Exact, in the first limit."""
        return self.costs[0]

    @property
    def limit(self) -> float:
        """What that cost must not exceed, in the same unit."""
        return self.limits[0]

    @property
    def unit(self) -> str:
        """Of cost and limit."""
        return self.units[0]


@ALLOCATORS.register("lagrangian")
@dataclass(frozen=True)
class Lagrangian(Allocator):
    """The assignment of `relax`. `evaluate` is not called."""

    def choose(
        self,
        space: PrecisionSpace,
        limits: Limits,
        scores: Scores | None = None,
        evaluate: Evaluate | None = None,
        progress: bool = False,
    ) -> Assignment:
        result = relax(space, limits, needed(scores, "lagrangian"))
        if progress:
            say(f"lagrangian: {result.summary}")
        return result.assignment


allocate = Lagrangian()
"""The default allocator: a function of the space, a cost, a budget and scores; see `Allocator`."""


def solve(space: PrecisionSpace, cost: CostModel, budget: Given, scores: Scores | None) -> LagrangianResult:
    """`relax` within a budget, as of `Allocator`."""
    return relax(space, given_limits(cost, budget), needed(scores, "lagrangian"))


def relax(space: PrecisionSpace, limits: Limits, scores: Scores) -> LagrangianResult:
    """Minimise the total score within limits, as measured by the exact costs.

    Each sub-group is taken alone first (Everett, 1963; hulls as in Sinha and Zoltners, 1979). Then the prices are
    corrected around the result, because a pruned row also saves the columns that read it, and it is solved again; last,
    what the exact costs leave over is spent until no single move fits. Several limits are one in that: see `balanced`.

    Raises:
        BudgetError, ValueError: as `Allocator` says.
    """
    search, choice = balanced(Units(space, scores), limits)
    bound, multiplier = search.bound(choice, search.spent(choice))
    matrices = search.units.matrices(choice)
    return LagrangianResult(
        search.units.assignment(choice),
        search.knapsack.total_score(choice),
        bound,
        len(choice),
        tuple(limit.cost.of_matrices(matrices) for limit in limits),
        tuple(limit.most for limit in limits),
        tuple(limit.cost.unit for limit in limits),
        multiplier,
    )
