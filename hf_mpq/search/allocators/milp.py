"""An integer program, for what the relaxation cannot do: several limits at once, and few precisions per matrix."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array

from ...core import Assignment, Budget, BudgetError, PrecisionSpace
from ...cost import CostModel, measure
from .base import ALLOCATORS, Scores
from .knapsack import Array, Choice
from .start import needed
from .units import Units

Limit = tuple[CostModel, Budget | str | float]


@dataclass(frozen=True)
class ProgramResult:
    """An assignment with what the solver knows about it.

    Attributes:
        assignment: the best found.
        score: its total score.
        bound: no assignment has a lower score, at the prices of the last round.
        costs: exact cost in each limit.
        limits: what the costs must not exceed, in the unit of each.
    """

    assignment: Assignment
    score: float
    bound: float
    costs: tuple[float, ...]
    limits: tuple[float, ...]

    @property
    def gap(self) -> float:
        """Share of the score by which it may be above the optimum."""
        return max(0.0, self.score - self.bound) / abs(self.score) if self.score else 0.0

    @property
    def summary(self) -> str:
        """Costs and gap in a line."""
        spent = " and ".join(f"{cost:,.6g} of {limit:,.6g}" for cost, limit in zip(self.costs, self.limits))
        return f"{spent}, at most {self.gap:.2%} above the lowest score"


@ALLOCATORS.register("milp")
def allocate_program(
    space: PrecisionSpace,
    cost: CostModel,
    budget: Budget | str | float,
    scores: Scores | None = None,
    evaluate: Callable[[Assignment], float] | None = None,
    limits: Sequence[Limit] = (),
    formats: int | None = None,
    gap: float = 1e-3,
    time_limit: float = 60.0,
    progress: bool = False,
) -> Assignment:
    """The assignment of `solve_program`; see `Allocator` for the other arguments. `evaluate` is not called."""
    result = solve_program(space, cost, budget, needed(scores, "milp"), limits, formats, gap, time_limit)
    if progress:
        Console(stderr=True).print(f"milp: {result.summary}")
    return result.assignment


def solve_program(
    space: PrecisionSpace,
    cost: CostModel,
    budget: Budget | str | float,
    scores: Scores,
    limits: Sequence[Limit] = (),
    formats: int | None = None,
    gap: float = 1e-3,
    time_limit: float = 60.0,
) -> ProgramResult:
    """Minimise the total score within several limits, one precision for each unit (HAWQ-v3's program, by HiGHS).

    The program's costs are linear; maps, padding and dead columns are not. What they make of the found assignment is
    taken as the constant part of the next round, until the exact costs keep every limit.

    Args:
        limits: further costs with their budgets, such as bit operations.
        formats: at most so many precisions above 0 in each matrix (or set of tied ones).
        gap: relative gap at which the solver may stop.
        time_limit: seconds for each round.

    Raises:
        BudgetError: when no assignment can keep the limits; it names the smallest possible of the first one exceeded.
        ValueError: as `Allocator` says; and when `formats` is below 1.
    """
    if formats is not None and formats < 1:
        raise ValueError(f"formats must be at least 1, got {formats}")
    program = _Program(Units(space, scores), [measure(*limit) for limit in ((cost, budget), *limits)], formats)
    offsets, tighter = program.offsets(program.cheapest(0)), np.zeros(len(program.costs))
    for _ in range(8):
        found = program.solve(offsets + tighter, gap, time_limit)
        if found is None:
            break
        choice, bound = found
        spent = program.spent(choice)
        if (spent <= program.limits * (1 + 1e-12)).all():
            return ProgramResult(program.units.assignment(choice), program.score(choice), bound, tuple(spent),
                                 tuple(program.limits))  # fmt: skip
        tighter += np.maximum(spent - program.limits, 0) * (tighter > 0)  # the same offset twice did not do
        tighter = np.maximum(tighter, 1e-9 * program.limits)
        offsets = np.maximum(offsets, program.offsets(choice))
    raise program.impossible()


class _Program:
    def __init__(self, units: Units, costs: list[tuple[CostModel, float]], formats: int | None):
        self.units, self.formats = units, formats
        self.costs = [cost for cost, _ in costs]
        self.limits = np.array([limit for _, limit in costs])
        self.unit, self.position = np.nonzero(np.isfinite(units.score))  # one variable for each choice
        self.prices = [units.prices(cost) for cost in self.costs]
        self.matrix = np.repeat(np.arange(len(units.members)), units.sizes)

    def score(self, choice: Choice) -> float:
        return float(self.units.score[np.arange(len(choice)), choice].sum())

    def spent(self, choice: Choice) -> Array:
        """Exact cost in every limit."""
        assignment = self.units.assignment(choice)
        return np.array([cost.of(assignment) for cost in self.costs])

    def offsets(self, choice: Choice) -> Array:
        """What the exact costs are above the linear ones."""
        linear = [prices[np.arange(len(choice)), choice].sum() for prices in self.prices]
        return self.spent(choice) - np.array(linear)

    def cheapest(self, limit: int) -> Choice:
        """The choice of least cost in one of the limits."""
        return np.where(np.isfinite(self.units.score), self.prices[limit], np.inf).argmin(axis=1)

    def impossible(self) -> BudgetError:
        """What to say: the first limit that cannot be kept, else that they cannot be kept together."""
        for number, (cost, limit) in enumerate(zip(self.costs, self.limits)):
            least = self.spent(self.cheapest(number))[number]
            if least > limit:
                return BudgetError(f"the budget of {limit:,.6g} {cost.unit} cannot be met; the smallest possible is "
                                   f"{least:,.6g} {cost.unit}")  # fmt: skip
        least = self.spent(self.cheapest(0))[0]
        return BudgetError("no assignment was found that keeps all limits together: allow more of one of them, more "
                           f"formats or more time; the smallest possible of the first alone is {least:,.6g} "
                           f"{self.costs[0].unit}")  # fmt: skip

    def solve(self, offsets: Array, gap: float, time_limit: float) -> tuple[Choice, float] | None:
        """The best choice within the limits less `offsets`, and the bound; None when there is none."""
        count, flags = len(self.unit), self._flags()
        one_each = LinearConstraint(self._one_each(flags), 1, 1)
        constraints = [*self._limits(offsets, flags), one_each, *self._formats(flags)]
        scale = max(float(np.abs(self.units.score[np.isfinite(self.units.score)]).max(initial=0)), 1e-300)
        objective = np.concatenate([self.units.score[self.unit, self.position] / scale, np.zeros(flags)])
        found = milp(objective, constraints=constraints, integrality=np.ones(count + flags), bounds=Bounds(0, 1),
                     options={"mip_rel_gap": gap, "time_limit": time_limit})  # fmt: skip
        if found.x is None:
            return None
        chosen = found.x[:count] > 0.5
        choice = np.zeros(len(self.units.score), dtype=int)
        choice[self.unit[chosen]] = self.position[chosen]
        return choice, float(found.mip_dual_bound or 0.0) * scale

    def _limits(self, offsets: Array, flags: int) -> list[LinearConstraint]:
        """One row for each limit, scaled to 1."""
        rows = []
        for prices, limit, offset in zip(self.prices, self.limits, offsets):
            row = np.concatenate([prices[self.unit, self.position], np.zeros(flags)]) / limit
            rows.append(LinearConstraint(csr_array(row[None]), -np.inf, 1 - offset / limit))
        return rows

    def _one_each(self, flags: int) -> csr_array:
        shape = (len(self.units.score), len(self.unit) + flags)
        return csr_array(coo_array((np.ones(len(self.unit)), (self.unit, np.arange(len(self.unit)))), shape=shape))

    def _flags(self) -> int:
        """Variables that say whether a matrix uses a choice."""
        return len(self.units.members) * self.units.score.shape[1] if self.formats is not None else 0

    def _formats(self, flags: int) -> list[LinearConstraint]:
        if not flags:
            return []
        width, count = self.units.score.shape[1], len(self.unit)
        flag = self.matrix[self.unit] * width + self.position
        rows, ones = np.arange(count), np.ones(count)
        linked = coo_array((np.concatenate([ones, -ones]), (np.tile(rows, 2), np.concatenate([rows, count + flag]))),
                           shape=(count, count + flags))  # fmt: skip
        kept = self.units.candidates[self.unit, self.position] > 0
        used = np.unique(np.stack([self.matrix[self.unit[kept]], flag[kept]]), axis=1)
        sums = coo_array((np.ones(used.shape[1]), (used[0], count + used[1])),
                         shape=(len(self.units.members), count + flags))  # fmt: skip
        return [LinearConstraint(csr_array(linked), -np.inf, 0), LinearConstraint(csr_array(sums), 0, self.formats)]
