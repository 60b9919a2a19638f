"""The contract of every allocator."""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from torch import Tensor

from ...core import Assignment, Budget, PrecisionSpace, Registry
from ...cost import CostModel

ALLOCATORS: Registry["Allocator"] = Registry("allocator")

Scores = Mapping[str, Tensor | np.ndarray]

SCORELESS = frozenset({"uniform"})
"""Allocators that do not look at scores."""
EVALUATIONS: dict[str, Callable[..., int]] = {}
"""How many assignments an allocator that measures them measures at most, from the space and its options."""


class Allocator(Protocol):
    """Chooses a precision for every sub-group within a budget."""

    def __call__(
        self,
        space: PrecisionSpace,
        cost: CostModel,
        budget: Budget | str | float,
        scores: Scores | None = None,
        evaluate: Callable[[Assignment], float] | None = None,
        progress: bool = False,
    ) -> Assignment:
        """The best assignment found that is not above the budget.

        Args:
            space: what may be chosen.
            cost: what the budget is measured with; see `hf_mpq.cost.measure`.
            budget: a `Budget`, its text, or a number in the unit of `cost`.
            scores: matrix name to `(groups, candidates)`, how much each choice hurts, lower is better; columns in the
                order of the spec's candidates; infinite means not allowed.
            evaluate: how much a whole assignment hurts, lower is better; only allocators that measure assignments call
                it.
            progress: show progress, and print how close the result is where that is known.

        Allocators may have further keyword arguments.

        Raises:
            BudgetError: when nothing in the space can meet the budget; it names the smallest possible.
            ValueError: when scores are missing or do not fit the space.
        """
