"""From linear integer programs to an assignment whose exact costs keep every limit."""

import numpy as np

from ...core import BudgetError
from ...cost import Limits
from .balance import balanced
from .column_prices import reader_prices
from .exact_search import ExactSearch, moves_within
from .filling import fill
from .knapsack import Array, Choice, Knapsack
from .program import Program
from .units import Units
from .unmet import named, unmet


class ProgramSearch:
    """Solves the program again and again with the prices that hold around the last solution.

    Args:
        units: the open choices.
        limits: cost models with the most that each may be, in its unit; the first is the main one.
        formats: at most so many precisions above 0 in each matrix; None for no such limit.
    """

    def __init__(self, units: Units, limits: Limits, formats: int | None):
        self.units, self.program, self.limits = units, Program(units, formats), limits
        self.costs = [limit.cost for limit in limits]
        self.budgets = np.array([limit.most for limit in limits], dtype=float)
        self.ceilings = self.budgets * (1 + 1e-12)  # room for the rounding of sums

    def run(self, gap: float, time_limit: float, rounds: int = 6) -> tuple[Choice, Array, float]:
        """The best choice found within the limits, its exact costs, and the bound; raises BudgetError without one."""
        best: Choice | None
        around, best, bound = self._start(gap, time_limit)
        if best is not None and self.score(best) - bound <= gap * abs(self.score(best)):
            return best, self.spent(best), bound
        margin = np.zeros(len(self.limits))
        for _ in range(rounds):
            prices, targets = self._around(around)
            solved = self.program.solve(prices, targets - margin, gap, time_limit)
            if solved is None:
                break
            around, bound = solved
            spent = self.spent(around)
            if (spent > self.ceilings).any():
                margin += 0.2 * np.maximum(spent - self.budgets, 0)
                continue
            around, spent = fill(around, spent, self._moves, self.units.move_kinds, self._within)
            gain = np.inf if best is None else self.score(best) - self.score(around)
            best = around if best is None or gain > 0 else best
            if gain <= 0.1 * gap * abs(self.score(best)):
                break
        if best is None:
            raise self._impossible(gap, time_limit)
        return best, self.spent(best), bound if np.isfinite(bound) else 0.0

    def score(self, choice: Choice) -> float:
        """Total score."""
        return float(self.units.score[np.arange(len(choice)), choice].sum())

    def spent(self, choice: Choice) -> Array:
        """Exact cost in every limit, `(limits,)`."""
        matrices = self.units.matrices(choice)
        return np.array([cost.of_matrices(matrices) for cost in self.costs])

    def _start(self, gap: float, time_limit: float) -> tuple[Choice, Choice | None, float]:
        """Where the first prices hold, the best choice so far, if any keeps the limits, and the bound."""
        for number, limit in enumerate(self.limits):
            least = Knapsack(self.units.prices(limit.cost), self.units.score).cheapest
            if self.spent(least)[number] > self.ceilings[number]:
                raise unmet(limit, self.spent(least)[number])
        if self.program.formats is None:
            try:
                search, choice = balanced(self.units, self.limits)
                return choice, choice, search.bound(choice, search.spent(choice))[0]
            except BudgetError:  # what it begins with exceeds one of several limits; another choice may not
                pass
        around, _ = ExactSearch(self.units, self.limits[:1]).run()
        cheapest = self._least(gap, time_limit)
        if cheapest is None or self._within(cheapest) is None:
            return around, None, -np.inf
        return (
            around,
            fill(cheapest, self.spent(cheapest), self._moves, self.units.move_kinds, self._within)[0],
            -np.inf,
        )

    def _least(self, gap: float, time_limit: float) -> Choice | None:
        """The cheapest choice in the main limit that keeps the others, by the prices of unpruned matrices."""
        prices = [np.where(np.isfinite(self.units.score), self.units.prices(cost), np.inf) for cost in self.costs]
        cheapest = np.argmin(prices[0], axis=1)
        every = np.arange(len(cheapest))
        offsets = self.spent(cheapest) - [price[every, cheapest].sum() for price in prices]
        limits = np.concatenate([[np.inf], (self.budgets - offsets)[1:]])
        solved = self.program.solve(
            [np.where(np.isfinite(price), price, 0) for price in prices], limits, gap, time_limit, objective=prices[0]
        )
        return None if solved is None else solved[0]

    def _impossible(self, gap: float, time_limit: float) -> BudgetError:
        least = self._least(gap, time_limit)
        if least is None:
            return BudgetError(
                f"no assignment was found that keeps the budgets of {' and '.join(map(named, self.limits))} together; "
                "allow more of one of them, more formats, or more time"
            )
        return unmet(self.limits[0], self.spent(least)[0], " together with the others")

    def _around(self, choice: Choice) -> tuple[list[Array], Array]:
        """Prices that hold around `choice`, and what their sums must not exceed."""
        matrices, spent = self.units.matrices(choice), self.spent(choice)
        every = np.arange(len(choice))
        prices = [
            self.units.prices(cost, matrices, reader_prices(self.units.space, cost, matrices)) for cost in self.costs
        ]
        return prices, np.array([price[every, choice].sum() for price in prices]) + self.budgets - spent

    def _moves(self, choice: Choice, spent: Array) -> tuple[Array, Array, float]:
        """Single moves; the price of one is the largest share that it takes of what is left of any limit."""
        matrices, allowed = self.units.matrices(choice), self.program.allowed(choice)
        price, gain, room = moves_within(self.units, self.limits, choice, matrices, self.ceilings - spent)
        return price, np.where(allowed, gain, 0), room

    def _within(self, choice: Choice) -> Array | None:
        spent = self.spent(choice)
        return spent if (spent <= self.ceilings).all() else None
