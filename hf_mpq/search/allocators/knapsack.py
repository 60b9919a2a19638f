"""The multiple-choice knapsack: one choice for each unit, least total score within a total cost."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Choice = NDArray[np.int64]


class Knapsack:
    """Solved by its Lagrangian: the lower convex hull of each unit, all steps in the order of their slope.

    Args:
        cost: of each choice, `(units, choices)`.
        score: of each choice, lower is better; infinite means not allowed, as padding of shorter rows.
    """

    def __init__(self, cost: Array, score: Array):
        allowed = np.isfinite(score)
        self.cost = np.where(allowed, cost, np.inf)
        self.score = np.where(allowed, score, np.inf)
        self.every = np.arange(len(cost))

    @cached_property
    def cheapest(self) -> Choice:
        """The cheapest choice of each unit, and of equally cheap ones the best."""
        lowest = self.cost.min(axis=1, keepdims=True)
        return np.where(self.cost == lowest, self.score, np.inf).argmin(axis=1)

    def total_cost(self, choice: Choice) -> float:
        """Cost of one choice for each unit."""
        return float(self.cost[self.every, choice].sum())

    def total_score(self, choice: Choice) -> float:
        """Score of one choice for each unit."""
        return float(self.score[self.every, choice].sum())

    def solve(self, limit: float) -> Choice:
        """The steepest hull steps up to `limit`, then what still fits, then exchanges of two units."""
        count, _ = self._steps_within(limit)
        units, targets, _, _ = self._steps
        choice = self.cheapest.copy()
        choice[units[:count]] = targets[:count]  # of a unit named twice the later step stays
        return self._exchange(self._fill(choice, limit), limit)

    def bound(self, limit: float) -> tuple[float, float]:
        """The dual bound: no choice within `limit` has a lower score. Also the multiplier, score per unit of cost."""
        count, room = self._steps_within(limit)
        _, _, prices, gains = self._steps
        reached = self.total_score(self.cheapest) - gains[:count].sum()
        multiplier = gains[count] / prices[count] if count < len(gains) else 0.0
        return float(reached - multiplier * room), float(multiplier)

    def moves(self, choice: Choice) -> tuple[Array, Array]:
        """What changing one unit costs and gains in score, each `(units, choices)`."""
        price = self.cost - self.cost[self.every, choice][:, None]
        return price, self.score[self.every, choice][:, None] - self.score

    @cached_property
    def _steps(self) -> tuple[Choice, Choice, Array, Array]:
        """Unit, reached choice, price and gain of every hull step, steepest first; a unit's steps stay in order."""
        steps, current, units = [], self.cheapest.copy(), self.every
        while len(units):
            here = current[units]
            cost, score, every = self.cost[units], self.score[units], np.arange(len(units))
            price, gain = cost - cost[every, here][:, None], score[every, here][:, None] - score
            slope = np.divide(gain, price, out=np.zeros_like(gain), where=(gain > 0) & (price > 0) & np.isfinite(price))
            best = slope.shape[1] - 1 - slope[:, ::-1].argmax(axis=1)  # of equal slopes the furthest
            rows = np.flatnonzero(slope[every, best] > 0)
            units, best = units[rows], best[rows]
            steps.append((units, best, price[rows, best], gain[rows, best]))
            current[units] = best
        if not steps:
            return self.every, self.every, np.zeros(0), np.zeros(0)
        unit, choice, price, gain = (np.concatenate(column) for column in zip(*steps))
        order = falling_order(gain / price)
        return unit[order], choice[order], price[order], gain[order]

    def _steps_within(self, limit: float) -> tuple[int, float]:
        """How many of the steepest steps fit into `limit`, and the room that is left."""
        room = limit - self.total_cost(self.cheapest)
        spent = np.concatenate([[0.0], self._steps[2].cumsum()])
        count = max(0, int(np.searchsorted(spent, room, side="right")) - 1)
        return count, room - spent[count]

    def _fill(self, choice: Choice, limit: float) -> Choice:
        while True:
            units, targets = fitting_moves(*self.moves(choice), limit - self.total_cost(choice))
            if not len(units):
                return choice
            choice[units] = targets

    def _exchange(self, choice: Choice, limit: float, rounds: int = 200, tolerance: float = 1e-4) -> Choice:
        """Lower one unit to raise another while that pays and the dual bound leaves room for it."""
        bound, _ = self.bound(limit)
        for _ in range(rounds):
            score = self.total_score(choice)
            if score - bound <= tolerance * abs(score):
                return choice
            pair = best_exchange(*self.moves(choice), limit - self.total_cost(choice))
            if pair is None:
                return choice
            for unit, target in pair:
                choice[unit] = target
        return choice


def falling_order(keys: Array) -> Choice:
    """The stable order of falling `keys`; a stable sort is slow, and only needed where some are equal."""
    order = np.argsort(-keys)
    found = keys[order]
    return order if (found[1:] != found[:-1]).all() else np.argsort(-keys, kind="stable")


def fitting_moves(price: Array, gain: Array, room: float) -> tuple[Choice, Choice]:
    """Units and choices of moves that fit into `room` together: the largest gain per cost first, one for each unit."""
    fits = (gain > 0) & (price <= room)
    ratio = np.divide(gain, np.maximum(price, 1e-300), out=np.zeros_like(gain), where=fits)
    best = ratio.argmax(axis=1)
    units = np.flatnonzero(fits.any(axis=1))
    units = units[falling_order(ratio[units, best[units]])]
    spent = np.maximum(price[units, best[units]], 0).cumsum()
    units = units[: np.searchsorted(spent, room, side="right")]
    return units, best[units]


def best_exchange(price: Array, gain: Array, room: float) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The two moves `(unit, choice)`, one giving up cost and one using it, with the largest gain together, if any."""
    up, down = np.argwhere((gain > 0) & np.isfinite(price)), np.argwhere((price < 0) & np.isfinite(gain))
    if not len(up) or not len(down):
        return None
    up = up[np.argsort(price[up[:, 0], up[:, 1]], kind="stable")]
    up_gain = gain[up[:, 0], up[:, 1]]
    leader = np.maximum.accumulate(up_gain)
    first = np.flatnonzero(np.diff(leader, prepend=-np.inf) > 0)  # where the best gain so far rises
    affordable = (
        np.searchsorted(price[up[first, 0], up[first, 1]], room - price[down[:, 0], down[:, 1]], side="right") - 1
    )
    partner = first[np.maximum(affordable, 0)]
    net = np.where(
        (affordable >= 0) & (up[partner, 0] != down[:, 0]), up_gain[partner] + gain[down[:, 0], down[:, 1]], 0
    )
    best = int(net.argmax())
    if net[best] <= 1e-12 * abs(up_gain).max():
        return None
    (unit, target), (other, reached) = down[best].tolist(), up[partner[best]].tolist()
    return (unit, target), (other, reached)
