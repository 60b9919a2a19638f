"""An integer program, for what the relaxation cannot do: several limits at once, and few precisions per matrix."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...core import Assignment, Budget, PrecisionSpace, say
from ...cost import CostModel, measure
from .base import ALLOCATORS, Allocator, Evaluate, Scores
from .start import BoundedResult, needed, spending
from .units import Units

Limit = tuple[CostModel, Budget | str | float]


@dataclass(frozen=True)
class ProgramResult(BoundedResult):
    """What the solver found.

    Attributes:
        costs: exact cost in each limit.
        limits: what the costs must not exceed.
        units: of costs and limits.
    """

    costs: tuple[float, ...]
    limits: tuple[float, ...]
    units: tuple[str, ...]

    @property
    def spent(self) -> str:
        return " and ".join(map(spending, self.costs, self.limits, self.units))


@ALLOCATORS.register("milp")
@dataclass(frozen=True)
class IntegerProgram(Allocator):
    """The assignment of `solve_program`; see there for the options. `evaluate` is not called."""

    limits: Sequence[Limit] = ()
    formats: int | None = None
    gap: float = 1e-3
    time_limit: float = 60.0

    def __post_init__(self) -> None:
        if self.formats is not None and self.formats < 1:
            raise ValueError(f"formats must be at least 1, got {self.formats}")

    def __call__(
        self,
        space: PrecisionSpace,
        cost: CostModel,
        budget: Budget | str | float,
        scores: Scores | None = None,
        evaluate: Evaluate | None = None,
        progress: bool = False,
    ) -> Assignment:
        result = solve_program(
            space, cost, budget, needed(scores, "milp"), self.limits, self.formats, self.gap, self.time_limit
        )
        if progress:
            say(f"milp: {result.summary}")
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

    The program's costs are linear; maps, padding and dead columns are not. Prices and limits are those that hold around
    the last assignment, so it is solved a few times; what the exact costs then leave over is spent by single moves.
    With one limit and no `formats` it begins with the Lagrangian's assignment and is never worse.

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
    from .program_search import ProgramSearch  # scipy

    search = ProgramSearch(Units(space, scores), [measure(*limit) for limit in ((cost, budget), *limits)], formats)
    choice, spent, bound = search.run(gap, time_limit)
    names = tuple(cost.unit for cost in search.costs)
    return ProgramResult(
        search.units.assignment(choice),
        search.score(choice),
        bound,
        len(choice),
        tuple(spent.tolist()),
        tuple(search.limits.tolist()),
        names,
    )
