"""Spending what exact costs leave over: single moves, until not one fits."""

from collections.abc import Callable
from typing import TypeVar

from .knapsack import Array, Choice, fitting_moves

Spent = TypeVar("Spent")


def fill(
    choice: Choice,
    spent: Spent,
    moves: Callable[[Choice, Spent], tuple[Array, Array, float]],
    kinds: Callable[[Choice], Choice],
    within: Callable[[Choice], Spent | None],
) -> tuple[Choice, Spent]:
    """Apply moves, the largest gain per cost first, until not one fits by its exact cost.

    Moves of one kind of unit between the same choices are taken to cost the same: when one does not fit, none does.

    Args:
        choice: where to begin, `(units,)`; within the limits.
        spent: its exact cost, or costs.
        moves: price and gain of every move, `(units, choices)`, and the room for prices.
        kinds: a number for each kind of move, `(units, choices)`.
        within: the exact cost of a choice; None when it is above a limit.
    """
    price, gain, room = moves(choice, spent)
    while True:
        units, targets = fitting_moves(price, gain, room)
        if not len(units):
            return choice, spent
        accepted: tuple[Choice, Spent] | None = _accept(choice, units, targets, within)
        if accepted is None:
            number = kinds(choice)
            gain[number == number[units[0], targets[0]]] = 0
            continue
        choice, spent = accepted
        price, gain, room = moves(choice, spent)


def _accept(
    choice: Choice, units: Choice, targets: Choice, within: Callable[[Choice], Spent | None]
) -> tuple[Choice, Spent] | None:
    """The longest halving of the moves that fits, with its cost; None when not even the first does."""
    count = len(units)
    while count:
        attempt = choice.copy()
        attempt[units[:count]] = targets[:count]
        spent = within(attempt)
        if spent is not None:
            return attempt, spent
        count //= 2
    return None
