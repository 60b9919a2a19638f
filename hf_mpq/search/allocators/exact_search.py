"""From the knapsack of sub-groups taken alone to the best assignment that keeps a limit of the exact cost."""

import numpy as np
from numpy.typing import NDArray

from ...cost import CostModel
from ...cost.exact import ExactMatrix
from .column_prices import reader_prices
from .filling import fill
from .knapsack import Array, Choice, Knapsack
from .units import Units
from .unmet import unmet


class ExactSearch:
    """Projects the knapsack's solution onto a limit of the exact cost, and uses what the exact cost leaves over.

    Args:
        units: the open choices.
        cost: what is limited.
        limit: the most it may be, in the unit of `cost`.
    """

    def __init__(self, units: Units, cost: CostModel, limit: float):
        self.units, self.cost, self.budget = units, cost, limit
        self.limit = limit * (1 + 1e-12)  # room for the rounding of sums
        self.knapsack = Knapsack(units.prices(cost), units.score)
        self._seen: tuple[Choice, dict[str, ExactMatrix]] | None = None
        self._around: tuple[Choice, tuple[Knapsack, float]] | None = None

    def run(self) -> tuple[Choice, float]:
        """The best choice found within the limit, `(units,)`, and its exact cost; raises BudgetError when none is."""
        found = self._refine(*self._fill(*self._project()))
        return self._around_others(*found) if self.units.moving_inputs else found

    def _around_others(self, choice: Choice, spent: float, rounds: int = 4) -> tuple[Choice, float]:
        """What weights cost depends on the bits of inputs, and the reverse: project again with the prices that hold
        around the cheapest choice, and around the best one as long as that gains."""
        around = self.knapsack.cheapest
        for _ in range(rounds):
            self.knapsack = Knapsack(self.units.prices(self.cost, self._matrices(around)), self.units.score)
            other = self._refine(*self._fill(*self._project()))
            if self.knapsack.total_score(other[0]) < self.knapsack.total_score(choice):
                choice, spent = other
            elif np.array_equal(around, choice):
                break
            around = choice
        return choice, spent

    @property
    def costless(self) -> NDArray[np.bool_]:
        """Units of inputs whose bits the limit does not count, `(units,)`."""
        prices = self.knapsack.cost
        return self.units.of_inputs & ((prices == prices[:, :1]) | ~np.isfinite(prices)).all(axis=1)

    def bound(self, choice: Choice, spent: float) -> tuple[float, float]:
        """Dual bound and multiplier, with maps and dead columns as they are in `choice`."""
        live, within = self._live(choice, spent)
        return live.bound(within)

    def spent(self, choice: Choice) -> float:
        """The exact cost."""
        return self.cost.of_matrices(self._matrices(choice))

    def _matrices(self, choice: Choice) -> dict[str, ExactMatrix]:
        """The assignment matrix by matrix; the last one is kept."""
        if self._seen is None or not np.array_equal(self._seen[0], choice):
            self._seen = choice.copy(), self.units.matrices(choice)
        return self._seen[1]

    def _project(self, rounds: int = 12) -> tuple[Choice, float]:
        """The best knapsack solution whose exact cost keeps the limit, and that cost.

        The exact cost is the knapsack's plus a correction that depends on the choice; the correction of one round sets
        the knapsack's limit of the next, inside the bracket of limits known to be kept and exceeded; further away each
        time that it changes nothing.
        """
        best = self.knapsack.cheapest
        best_spent = spent = self.smallest()
        low, high, inside = self.knapsack.total_cost(best), np.inf, self.knapsack.total_cost(best)
        reach = 1
        for _ in range(rounds):
            target = inside + reach * (self.limit - spent)
            if not low < target < high:
                target = (low + high) / 2
            if not np.isfinite(target):
                break
            choice = self.knapsack.solve(target)
            inside, spent = self.knapsack.total_cost(choice), self.spent(choice)
            if spent > self.limit:
                high, reach = min(high, inside), 1
                continue
            reach = 1 if inside > low else 2 * reach
            low = max(low, inside)
            if self.knapsack.total_score(choice) <= self.knapsack.total_score(best):
                best, best_spent = choice, spent
            if self.limit - spent <= 1e-4 * self.limit:
                break
        return best, best_spent

    def smallest(self) -> float:
        """The least exact cost there is; raises BudgetError when it is above the limit."""
        spent = self.spent(self.knapsack.cheapest)
        if spent > self.limit:
            raise unmet(self.budget, spent, self.cost.unit)
        return spent

    def _refine(self, choice: Choice, spent: float, rounds: int = 3, tolerance: float = 1e-3) -> tuple[Choice, float]:
        """Solve again with the dead columns of the result, as long as there is something to gain."""
        for _ in range(rounds):
            live, within = self._live(choice, spent)
            score = live.total_score(choice)
            if score - live.bound(within)[0] <= tolerance * abs(score):
                break
            other = self._solve_below(live, within)
            if other is None:
                break
            other = self._fill(*other)
            if live.total_score(other[0]) >= score:
                break
            choice, spent = other
        return choice, spent

    def _solve_below(self, knapsack: Knapsack, target: float, rounds: int = 4) -> tuple[Choice, float] | None:
        """The knapsack's solution, its limit lowered by the excess until the exact cost keeps ours."""
        for _ in range(rounds):
            choice = knapsack.solve(target)
            spent = self.spent(choice)
            if spent <= self.limit:
                return choice, spent
            target -= spent - self.limit
        return None

    def _live(self, choice: Choice, spent: float) -> tuple[Knapsack, float]:
        """The knapsack with the prices that hold around `choice`, and its limit.

        Columns that are dead in `choice` cost nothing, and a row also costs the column that reads it.
        """
        if self._around is not None and np.array_equal(self._around[0], choice):
            return self._around[1]
        matrices = self._matrices(choice)
        readers = reader_prices(self.units.space, self.cost, matrices)
        live = Knapsack(self.units.prices(self.cost, matrices, readers), self.units.score)
        self._around = choice.copy(), (live, live.total_cost(choice) + self.limit - spent)
        return self._around[1]

    def fill(self, choice: Choice) -> Choice:
        """What the limit leaves over, used by moves until not one fits."""
        return self._fill(choice, self.spent(choice))[0]

    def _fill(self, choice: Choice, spent: float) -> tuple[Choice, float]:
        return fill(choice, spent, self._moves, self.units.move_kinds, self._within)

    def _moves(self, choice: Choice, spent: float) -> tuple[Array, Array, float]:
        """Price and gain of every move, `(units, choices)`, at the columns that are live now; and the room."""
        prices = self.units.prices(self.cost, self._matrices(choice))
        return *Knapsack(prices, self.units.score).moves(choice), self.limit - spent

    def _within(self, choice: Choice) -> float | None:
        spent = self.spent(choice)
        return spent if spent <= self.limit else None
