"""One linear integer program: a choice for each unit, within several limits, with few precisions per matrix."""

from functools import cached_property

import numpy as np

from ..._extras import require

with require("train", "the allocator 'milp'"):
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array, csr_array

from .knapsack import Array, Choice, Knapsack
from .units import Units


class Program:
    """Solved by HiGHS. With one precision per matrix and no pruning, a matrix is one row; else each unit is one.

    Args:
        units: the open choices.
        formats: at most so many precisions above 0 in each matrix, or set of tied ones; None for no such limit.
    """

    def __init__(self, units: Units, formats: int | None = None):
        self.units, self.formats = units, formats
        self.matrix = np.repeat(np.arange(len(units.members)), units.sizes)  # (units,)
        self.row = np.arange(len(units.score))  # of each unit
        whole = formats == 1 and not (units.candidates == 0).any()
        if whole:
            self.row = self.matrix
        self.held = formats is not None and not whole
        self.score = self._together(units.score)

    def solve(
        self, prices: list[Array], limits: Array, gap: float, time_limit: float, objective: Array | None = None
    ) -> tuple[Choice, float] | None:
        """The best choice `(units,)` and the bound on its score; None when there is none, or none in time.

        Args:
            prices: of each choice in every limit, `(units, choices)` each.
            limits: what the sums of prices must not exceed, `(limits,)`.
            gap: relative gap at which the solver may stop.
            time_limit: seconds.
            objective: what is minimised in place of the score, `(units, choices)`.
        """
        prices = [self._together(price) for price in prices]
        score = self.score if objective is None else self._together(objective)
        open_choices = np.isfinite(score)
        if len(prices) == 1 and not self.held and np.isfinite(limits[0]):
            open_choices &= _promising(prices[0], score, float(limits[0]))
        row, position = np.nonzero(open_choices)
        flags = len(self.units.members) * score.shape[1] if self.held else 0
        scale = max(float(np.abs(score[row, position]).max(initial=0)), 1e-300)
        constraints = [_one_each(row, len(score), flags), *_within(prices, limits, row, position, flags)]
        constraints += self._few(row, position) if flags else []
        found = milp(
            np.concatenate([score[row, position] / scale, np.zeros(flags)]),
            constraints=constraints,
            integrality=np.ones(len(row) + flags),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": gap, "time_limit": time_limit},
        )
        if found.x is None:
            return None
        chosen = found.x[: len(row)] > 0.5
        choice = np.zeros(len(score), dtype=int)
        choice[row[chosen]] = position[chosen]
        return choice[self.row], float(found.mip_dual_bound) * scale

    def allowed(self, choice: Choice) -> Array:
        """Whether a single unit may move there while each matrix keeps its precisions, `(units, choices)` bool."""
        if self.formats is None:
            return np.isfinite(self.units.score)
        used = np.zeros((len(self.units.members), self.units.score.shape[1]), dtype=bool)
        used[self.matrix, choice] = True
        return used[self.matrix] | (self.units.candidates == 0)

    def _together(self, table: Array) -> Array:
        """Sums over the units of each row: `(units, choices)` to `(rows, choices)`."""
        if self.row is not self.matrix or not len(table):
            return table
        return np.add.reduceat(table, self._starts, axis=0)

    @cached_property
    def _starts(self) -> Choice:
        return np.searchsorted(self.matrix, np.arange(len(self.units.members)))

    def _few(self, row: Choice, position: Choice) -> list[LinearConstraint]:
        """A flag for each precision of a matrix that is used, and at most so many flags above 0."""
        width, count = self.score.shape[1], len(row)
        flags = len(self.units.members) * width
        flag = self.matrix[row] * width + position
        rows, ones = np.arange(count), np.ones(count)
        linked = coo_array(
            (np.concatenate([ones, -ones]), (np.tile(rows, 2), np.concatenate([rows, count + flag]))),
            shape=(count, count + flags),
        )
        kept = self.units.candidates[row, position] > 0
        used = np.unique(np.stack([self.matrix[row[kept]], flag[kept]]), axis=1)
        sums = coo_array(
            (np.ones(used.shape[1]), (used[0], count + used[1])), shape=(len(self.units.members), count + flags)
        )
        return [LinearConstraint(csr_array(linked), -np.inf, 0), LinearConstraint(csr_array(sums), 0, self.formats)]


def _promising(price: Array, score: Array, limit: float) -> Array:
    """Choices that some better solution than the knapsack's may have, by what they add to its dual bound."""
    knapsack = Knapsack(price, score)
    if knapsack.total_cost(knapsack.cheapest) > limit:
        return np.isfinite(score)
    start = knapsack.solve(limit)
    bound, multiplier = knapsack.bound(limit)
    best = knapsack.total_score(start)
    penalised = knapsack.score + multiplier * np.where(np.isfinite(score), price, 0)
    kept = bound + penalised - penalised.min(axis=1, keepdims=True) <= best + 1e-9 * abs(best)
    kept[knapsack.every, start] = True
    return kept


def _one_each(row: Choice, rows: int, flags: int) -> LinearConstraint:
    shape = (rows, len(row) + flags)
    return LinearConstraint(csr_array(coo_array((np.ones(len(row)), (row, np.arange(len(row)))), shape=shape)), 1, 1)


def _within(prices: list[Array], limits: Array, row: Choice, position: Choice, flags: int) -> list[LinearConstraint]:
    """One line for each limit, scaled to about 1."""
    lines = []
    for price, limit in zip(prices, limits):
        line = np.concatenate([price[row, position], np.zeros(flags)])
        scale = max(np.abs(line).sum() / max(len(price), 1), 1e-300) * max(len(price), 1) ** 0.5
        lines.append(LinearConstraint(csr_array(line[None] / scale), -np.inf, limit / scale))
    return lines
