"""From the knapsack of sub-groups taken alone to the best assignment that keeps limits of exact costs."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ...core import BudgetError
from ...cost import Limit
from ...cost.exact import ExactMatrix
from .column_prices import reader_prices
from .filling import fill
from .knapsack import Array, Choice, Knapsack
from .units import Units
from .unmet import unmet, unmet_together


class ExactSearch:
    """Projects the knapsack's solution onto limits of exact costs, and uses what the exact costs leave over.

    Several limits are one in the knapsack: a weighted sum of the shares that are used of each. Every choice is measured
    by all of them.

    Args:
        units: the open choices.
        limits: cost models with the most that each may be, in its unit; all of them are kept.
        weights: of the limits in the sum, above zero; None for equal ones. The sum of one limit is its cost.
    """

    def __init__(self, units: Units, limits: Sequence[Limit], weights: Sequence[float] | None = None):
        self.units, self.limits = units, tuple(limits)
        self.budgets = np.array([limit.most for limit in self.limits])
        self.ceilings = self.budgets * (1 + 1e-12)  # room for the rounding of sums
        shares = np.ones(len(self.limits)) if weights is None else np.asarray(weights)
        self.scales = np.ones(1) if len(self.limits) == 1 else shares / shares.sum() / self.budgets
        self.limit = self.weigh(self.ceilings)
        self.knapsack = Knapsack(self._prices(), units.score)
        self._seen: tuple[Choice, dict[str, ExactMatrix]] | None = None
        self._around: tuple[Choice, tuple[Knapsack, float]] | None = None

    def run(self) -> tuple[Choice, Array]:
        """The best choice found within the limits, `(units,)`, and its exact costs; raises BudgetError when none is."""
        found = self._refine(*self._fill(*self.project()))
        return self._around_others(*found) if self.units.moving_inputs else found

    def _around_others(self, choice: Choice, spent: Array, rounds: int = 4) -> tuple[Choice, Array]:
        """What weights cost depends on the bits of inputs, and the reverse: project again with the prices that hold
        around the cheapest choice, and around the best one as long as that gains."""
        around = self.knapsack.cheapest
        for _ in range(rounds):
            self.knapsack = Knapsack(self._prices(self._matrices(around)), self.units.score)
            other = self._refine(*self._fill(*self.project()))
            if self.knapsack.total_score(other[0]) < self.knapsack.total_score(choice):
                choice, spent = other
            elif np.array_equal(around, choice):
                break
            around = choice
        return choice, spent

    @property
    def costless(self) -> NDArray[np.bool_]:
        """Units of inputs whose bits the limits do not count, `(units,)`."""
        prices = self.knapsack.cost
        return self.units.of_inputs & ((prices == prices[:, :1]) | ~np.isfinite(prices)).all(axis=1)

    def bound(self, choice: Choice, spent: Array) -> tuple[float, float]:
        """Dual bound, and the multiplier of the weighted sum, with maps and dead columns as they are in `choice`."""
        live, within = self._live(choice, spent)
        return live.bound(within)

    def spent(self, choice: Choice) -> Array:
        """The exact cost in every limit, `(limits,)`."""
        matrices = self._matrices(choice)
        return np.array([limit.cost.of_matrices(matrices) for limit in self.limits])

    def keeps(self, choice: Choice) -> bool:
        """Whether a choice is within all limits."""
        return self._kept(self.spent(choice))

    def room(self, choice: Choice) -> float:
        """What is left, in the unit of the knapsack's costs: more than that fits no limit."""
        return self.limit - self.weigh(self.spent(choice))

    def weigh(self, spent: Array) -> float:
        """Costs `(limits,)` in the unit of the knapsack's."""
        return float(self.scales @ spent)

    def prices(self, choice: Choice) -> Array:
        """What every choice costs around this one, as the knapsack counts it, `(units, choices)`."""
        return self._prices_around(self._matrices(choice))

    def unmet(self, choice: Choice, among: str = "") -> BudgetError:
        """The error that names the limit that a choice exceeds most; the choice is the smallest there is."""
        spent = self.spent(choice)
        worst = int((spent / self.budgets).argmax())
        return unmet(self.limits[worst], spent[worst], among)

    def _kept(self, spent: Array) -> bool:
        return bool((spent <= self.ceilings).all())

    def _prices(self, around: Mapping[str, ExactMatrix] | None = None) -> Array:
        return self._weighted(self.units.prices(limit.cost, around) for limit in self.limits)

    def _prices_around(self, matrices: Mapping[str, ExactMatrix]) -> Array:
        space, costs = self.units.space, [limit.cost for limit in self.limits]
        return self._weighted(self.units.prices(one, matrices, reader_prices(space, one, matrices)) for one in costs)

    def _weighted(self, tables: Iterable[Array]) -> Array:
        return sum(table * scale for table, scale in zip(tables, self.scales))

    def _matrices(self, choice: Choice) -> dict[str, ExactMatrix]:
        """The assignment matrix by matrix; the last one is kept."""
        if self._seen is None or not np.array_equal(self._seen[0], choice):
            self._seen = choice.copy(), self.units.matrices(choice)
        return self._seen[1]

    def project(self, rounds: int = 12) -> tuple[Choice, Array]:
        """The best knapsack solution whose exact costs keep the limits, and these costs.

        The exact cost is the knapsack's plus a correction that depends on the choice; the correction of one round sets
        the knapsack's limit of the next, inside the bracket of limits known to be kept and exceeded; further away each
        time that it changes nothing.
        """
        best = self.knapsack.cheapest
        best_spent = spent = self._cheapest()
        low, high, inside = self.knapsack.total_cost(best), np.inf, self.knapsack.total_cost(best)
        reach = 1
        for _ in range(rounds):
            target = inside + reach * (self.limit - self.weigh(spent))
            if not low < target < high:
                target = (low + high) / 2
            if not np.isfinite(target):
                break
            choice = self.knapsack.solve(target)
            inside, spent = self.knapsack.total_cost(choice), self.spent(choice)
            if not self._kept(spent):
                high, reach = min(high, inside), 1
                continue
            reach = 1 if inside > low else 2 * reach
            low = max(low, inside)
            if self.knapsack.total_score(choice) <= self.knapsack.total_score(best):
                best, best_spent = choice, spent
            if self.limit - self.weigh(spent) <= 1e-4 * self.limit:
                break
        return best, best_spent

    def smallest(self) -> Array:
        """The least exact costs there are; raises BudgetError where a limit is below, or all cannot be kept at once."""
        for number, limit in enumerate(self.limits if len(self.limits) > 1 else ()):
            least = Knapsack(self.units.prices(limit.cost), self.units.score).cheapest
            if self.spent(least)[number] > self.ceilings[number]:
                raise unmet(limit, self.spent(least)[number])
        return self._cheapest()

    def _cheapest(self) -> Array:
        spent = self.spent(self.knapsack.cheapest)
        if self._kept(spent):
            return spent
        raise unmet(self.limits[0], spent[0]) if len(self.limits) == 1 else unmet_together(self.limits, spent)

    def _refine(self, choice: Choice, spent: Array, rounds: int = 3, tolerance: float = 1e-3) -> tuple[Choice, Array]:
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

    def _solve_below(self, knapsack: Knapsack, target: float, rounds: int = 4) -> tuple[Choice, Array] | None:
        """The knapsack's solution, its limit lowered by the excess until the exact costs keep ours."""
        for _ in range(rounds):
            choice = knapsack.solve(target)
            spent = self.spent(choice)
            if self._kept(spent):
                return choice, spent
            target -= self.weigh(np.maximum(spent - self.ceilings, 0))
        return None

    def _live(self, choice: Choice, spent: Array) -> tuple[Knapsack, float]:
        """The knapsack with the prices that hold around `choice`, and its limit.

        Columns that are dead in `choice` cost nothing, and a row also costs the column that reads it.
        """
        if self._around is not None and np.array_equal(self._around[0], choice):
            return self._around[1]
        live = Knapsack(self._prices_around(self._matrices(choice)), self.units.score)
        self._around = choice.copy(), (live, live.total_cost(choice) + self.limit - self.weigh(spent))
        return self._around[1]

    def fill(self, choice: Choice) -> Choice:
        """What the limits leave over, used by moves until not one fits."""
        return self._fill(choice, self.spent(choice))[0]

    def _fill(self, choice: Choice, spent: Array) -> tuple[Choice, Array]:
        return fill(choice, spent, self._moves, self.units.move_kinds, self._within)

    def _moves(self, choice: Choice, spent: Array) -> tuple[Array, Array, float]:
        """Price and gain of every move, `(units, choices)`, at the columns that are live now; and the room."""
        matrices = self._matrices(choice)
        if len(self.limits) == 1:
            return *Knapsack(self._prices(matrices), self.units.score).moves(choice), self.limit - self.weigh(spent)
        return moves_within(self.units, self.limits, choice, matrices, self.ceilings - spent)

    def _within(self, choice: Choice) -> Array | None:
        spent = self.spent(choice)
        return spent if self._kept(spent) else None


def moves_within(
    units: Units, limits: Sequence[Limit], choice: Choice, matrices: Mapping[str, ExactMatrix], left: Array
) -> tuple[Array, Array, float]:
    """Single moves within several limits, `left` of each `(limits,)`: the price of one is the largest share that it
    takes of what is left of any."""
    found = [Knapsack(units.prices(limit.cost, matrices), units.score).moves(choice) for limit in limits]
    rooms = np.maximum(left, 1e-9 * np.array([limit.most for limit in limits]))
    return np.max([price / room for (price, _), room in zip(found, rooms)], axis=0), found[0][1], 1.0
