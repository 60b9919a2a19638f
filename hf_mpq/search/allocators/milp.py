"""An integer program, for what the relaxation cannot do: few precisions per matrix, and the best of several limits."""

from dataclasses import dataclass

from ...core import Assignment, PrecisionSpace, say
from ...cost import CostModel, Limits, given_limits
from .base import ALLOCATORS, Allocator, Evaluate, Given, Scores
from .start import BoundedResult, needed
from .units import Units


@ALLOCATORS.register("milp")
@dataclass(frozen=True)
class IntegerProgram(Allocator):
    """The assignment of `program`; see there for the options. `evaluate` is not called."""

    formats: int | None = None
    gap: float = 1e-3
    time_limit: float = 60.0

    def __post_init__(self) -> None:
        if self.formats is not None and self.formats < 1:
            raise ValueError(f"formats must be at least 1, got {self.formats}")

    def choose(
        self,
        space: PrecisionSpace,
        limits: Limits,
        scores: Scores | None = None,
        evaluate: Evaluate | None = None,
        progress: bool = False,
    ) -> Assignment:
        result = program(space, limits, needed(scores, "milp"), self.formats, self.gap, self.time_limit)
        if progress:
            say(f"milp: {result.summary}")
        return result.assignment


def solve_program(
    space: PrecisionSpace,
    cost: CostModel,
    budget: Given,
    scores: Scores,
    formats: int | None = None,
    gap: float = 1e-3,
    time_limit: float = 60.0,
) -> BoundedResult:
    """`program` within a budget, as of `Allocator`."""
    return program(space, given_limits(cost, budget), scores, formats, gap, time_limit)


def program(
    space: PrecisionSpace,
    limits: Limits,
    scores: Scores,
    formats: int | None = None,
    gap: float = 1e-3,
    time_limit: float = 60.0,
) -> BoundedResult:
    """Minimise the total score within limits, one precision for each unit (HAWQ-v3's program, by HiGHS).

    The program's costs are linear; maps, padding and dead columns are not. Prices and limits are those that hold around
    the last assignment, so it is solved a few times; what the exact costs then leave over is spent by single moves.
    Without `formats` it begins with the Lagrangian's assignment and is never worse.

    Args:
        limits: costs with the most that each may be, such as bytes and bit operations.
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

    search = ProgramSearch(Units(space, scores), limits, formats)
    choice, spent, bound = search.run(gap, time_limit)
    return BoundedResult(
        search.units.assignment(choice),
        search.score(choice),
        bound,
        len(choice),
        tuple(spent.tolist()),
        tuple(search.budgets.tolist()),
        tuple(limit.cost.unit for limit in limits),
    )
