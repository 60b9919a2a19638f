"""Several limits at once for the knapsack, which has one: how much each weighs."""

import numpy as np

from ...cost import Limits
from .exact_search import ExactSearch
from .knapsack import Choice
from .units import Units


def balanced(units: Units, limits: Limits, rounds: int = 12) -> tuple[ExactSearch, Choice]:
    """The search whose choice is the best found within all limits, and the choice: its bound holds for all of them.

    A limit whose own best choice keeps the others is the only one that counts. Where there is none, weights of the
    limits are moved from those that are used least to those that are used most, by smaller steps at each turn (a
    surrogate relaxation: Glover, 1965; weights as in Rprop, Riedmiller and Braun, 1993).

    Raises:
        BudgetError: as `ExactSearch.smallest`.
    """
    together = ExactSearch(units, limits)
    if len(limits) == 1:
        return together, together.run()[0]
    together.smallest()
    for limit in limits:
        alone = ExactSearch(units, [limit])
        choice, _ = alone.run()
        if together.keeps(choice):
            return alone, choice
    return _weighted(units, limits, rounds)


def _weighted(units: Units, limits: Limits, rounds: int) -> tuple[ExactSearch, Choice]:
    weights, steps, last = np.zeros(len(limits)), np.full(len(limits), 2.0), np.zeros(len(limits))
    found: list[tuple[float, ExactSearch]] = []
    for _ in range(rounds):
        search = ExactSearch(units, limits, np.exp(weights - weights.max()).clip(1e-9))
        choice, spent = search.project()
        found.append((search.knapsack.total_score(choice), search))
        used = spent / search.budgets
        if used.min() > 1 - 1e-3:
            break
        turn = np.zeros(len(limits))
        turn[used.argmax()], turn[used.argmin()] = 1.0, -1.0
        steps = np.where(turn * last < 0, steps / 2, steps)
        weights, last = weights + steps * turn, np.where(turn == 0, last, turn)
    finished = ((search, search.run()[0]) for _, search in sorted(found, key=lambda pair: pair[0])[:3])
    return min(finished, key=lambda pair: pair[0].knapsack.total_score(pair[1]))
