"""The contract of every allocator."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, TypeAlias

import numpy as np
from torch import Tensor

from ...core import Assignment, Budget, PrecisionSpace, Registry
from ...cost import CostModel, Limit, Limits, given_limits

ALLOCATORS: Registry[type["Allocator"]] = Registry("allocator")

Scores = Mapping[str, Tensor | np.ndarray]
Evaluate = Callable[[Assignment], float]
Given: TypeAlias = Budget | str | float | Limit | Sequence[Budget | str | float | Limit]


class Allocator(ABC):
    """Chooses a precision for every sub-group within limits. Its options are the fields of the class, and checked
    when one is made: `ALLOCATORS["greedy"](direction="up")(space, cost, "12MB", scores)`.

    `choose` is what an allocator implements; calling one reads budgets as they are written first.

    Attributes:
        needs_scores: it cannot choose without `scores`.
        reads_scores: it looks at `scores` where there are some.
        needs_evaluate: it cannot choose without `evaluate`.
        chooses_patterns: it chooses N:M patterns where they are open; all others refuse them.
    """

    needs_scores: ClassVar[bool] = True
    reads_scores: ClassVar[bool] = True
    needs_evaluate: ClassVar[bool] = False
    chooses_patterns: ClassVar[bool] = False

    def __call__(
        self,
        space: PrecisionSpace,
        cost: CostModel,
        budget: Given,
        scores: Scores | None = None,
        evaluate: Evaluate | None = None,
        progress: bool = False,
    ) -> Assignment:
        """The best assignment found that is not above the budget; `choose` within what a user wrote.

        Args:
            cost: what the budget is measured with; see `hf_mpq.cost.measure`.
            budget: a `Budget`, its text, a number in the unit of `cost`, or several that are met together, in a list or
                as `"a + b"`; a `Limit` is of its own cost model.
            space, scores, evaluate, progress: as of `choose`.

        Raises:
            BudgetError, ValueError: as `choose`.
        """
        return self.choose(space, given_limits(cost, budget), scores, evaluate, progress)

    @abstractmethod
    def choose(
        self,
        space: PrecisionSpace,
        limits: Limits,
        scores: Scores | None = None,
        evaluate: Evaluate | None = None,
        progress: bool = False,
    ) -> Assignment:
        """The best assignment found that keeps every limit.

        Args:
            space: what may be chosen.
            limits: cost models with the most that each may be.
            scores: matrix name to `(groups, candidates)`, how much each choice hurts, lower is better; columns in the
                order of the spec's candidates; infinite means not allowed.
            evaluate: how much a whole assignment hurts, lower is better; only allocators that measure assignments call
                it.
            progress: show progress, and print how close the result is where that is known.

        Raises:
            BudgetError: when nothing in the space can keep a limit, which it names with the smallest possible; or not
                all of them together.
            ValueError: when scores are missing or do not fit the space.
        """

    def finalists(
        self,
        space: PrecisionSpace,
        limits: Limits,
        count: int,
        scores: Scores | None = None,
        evaluate: Evaluate | None = None,
        progress: bool = False,
    ) -> list[Assignment]:
        """The best assignments found that keep every limit, at most `count`, the best first; allocators that rank no
        others give the one that they choose. Everything else as of `choose`."""
        return [self.choose(space, limits, scores, evaluate, progress)]

    def evaluation_count(self, space: PrecisionSpace) -> int:
        """How many assignments of `space` it measures at most."""
        return 0
