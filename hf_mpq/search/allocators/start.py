"""How every allocator begins: units, the exact cost, and the limit."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ...core import Assignment, BudgetError, MatrixAssignment, Pattern, PrecisionSpace
from ...cost import Limits
from .base import Scores
from .exact_search import ExactSearch
from .knapsack import Choice
from .units import Units


@dataclass(frozen=True)
class BoundedResult:
    """An assignment with what is known about how good it is.

    Attributes:
        assignment: the best found.
        score: its total score.
        bound: no assignment within the limits has a lower score, at the prices that hold around this one.
        count: sub-groups chosen; tied ones count once.
        costs: exact cost in each limit.
        limits: what the costs must not exceed.
        units: of costs and limits.
    """

    assignment: Assignment
    score: float
    bound: float
    count: int
    costs: tuple[float, ...]
    limits: tuple[float, ...]
    units: tuple[str, ...]

    @property
    def gap(self) -> float:
        """Share of the score by which it may be above the optimum."""
        return max(0.0, self.score - self.bound) / abs(self.score) if self.score else 0.0

    @property
    def spent(self) -> str:
        """What is spent of what may be."""
        return " and ".join(map(spending, self.costs, self.limits, self.units))

    @property
    def summary(self) -> str:
        """Count, costs and gap in a line."""
        return f"{self.count:,} sub-groups, {self.spent}, gap {self.gap:.2%}"

    def __str__(self) -> str:
        return self.summary


CANDIDATES = (2, 3, 4, 8)
"""What is proposed where precisions are fixed, up to those."""


def begin(space: PrecisionSpace, limits: Limits, scores: Scores) -> ExactSearch:
    """The search over all assignments of `space` within limits."""
    return ExactSearch(Units(space, scores), limits)


def check_possible(space: PrecisionSpace, limits: Limits) -> None:
    """Raise BudgetError when no assignment of `space` can keep some limits; nothing needs to be scored before."""
    space = space.with_patterns(cheapest_patterns(space, limits))
    try:
        begin(space, limits, no_scores(space)).smallest()
    except BudgetError as error:
        if space.open_choices:
            raise
        raise BudgetError(f"{error}; all precisions are fixed: {_cure(space)}") from None


def _cure(space: PrecisionSpace) -> str:
    """What makes a model of fixed precisions smaller."""
    highest = max((max(spec.candidates) for spec in space.weights.values() if spec.role == "encoder"), default=8)
    lower = tuple(bits for bits in CANDIDATES if bits <= highest)
    if any(spec.mask is not None for spec in space.weights.values()):
        return "keep fewer weights, by a lower density of the mask"
    return f"give candidates, such as MPQConfig(bits={lower if len(lower) > 1 else CANDIDATES})"


def cheapest_patterns(space: PrecisionSpace, limits: Limits) -> dict[str, Pattern]:
    """Of every matrix whose N:M pattern is open the one that takes the least of the limits at the lowest precision, the
    densest of equal ones."""
    lowest = {
        name: MatrixAssignment(spec.bits or (spec.candidates[0],) * spec.layout.count, spec.keep_of, spec.nested)
        for name, spec in space.weights.items()
    }

    def taken(name: str, pattern: Pattern) -> float:
        one = Assignment({**lowest, name: replace(lowest[name], keep_of=pattern)})
        return sum(limit.cost.of(one) / limit.most for limit in limits)

    return {name: min(many, key=lambda one: taken(name, one)) for name, many in space.open_patterns.items()}


def needed(scores: Scores | None, allocator: str) -> Scores:
    """The scores; raises ValueError when there are none."""
    if scores is None:
        raise ValueError(f"the {allocator} allocator needs scores; compute them with a scorer first")
    return scores


def no_scores(space: PrecisionSpace) -> Scores:
    """Zeros for every open matrix and input, for allocators that do not look at scores."""
    return {name: np.zeros((one.groups, len(one.candidates))) for name, one in space.open_choices.items()}


def of_weights(space: PrecisionSpace, scores: Scores) -> Scores:
    """Without those of inputs, for allocators that leave inputs at the highest of their candidates."""
    return {name: scores[name] for name in space.weights if name in scores}


def most_within(search: ExactSearch, count: int, choice_of: Callable[[int], Choice]) -> tuple[int, Choice]:
    """As `largest_within`; raises BudgetError when not even 0 keeps the limits."""
    number, choice = largest_within(search, count, choice_of)
    if choice is None:
        raise search.unmet(choice_of(0))
    return number, choice


def largest_within(search: ExactSearch, count: int, choice_of: Callable[[int], Choice]) -> tuple[int, Choice | None]:
    """The largest number in 0 to `count` whose `choice_of(number)` keeps the limits, if costs rise with the number;
    -1 and None when not even 0 does."""
    low, high, best = -1, count, None
    while low < high:
        middle = (low + high + 1) // 2
        choice = choice_of(middle)
        if search.keeps(choice):
            low, best = middle, choice
        else:
            high = middle - 1
    return low, best


def spending(cost: float, limit: float, unit: str) -> str:
    """What is spent of what may be, such as "12.00 of 12.00 MB"."""
    if unit == "bytes" and limit >= 1e5:
        cost, limit, unit = cost / 1e6, limit / 1e6, "MB"
    return f"{cost:,.2f} of {limit:,.2f} {unit}" if limit < 1e4 else f"{cost:,.6g} of {limit:,.6g} {unit}"
