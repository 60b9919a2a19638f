"""One of a few choices for each of some matrices, all sub-groups of one together: the likeliest within limits."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..core import Assignment
from ..cost import Limits
from .allocators.unmet import unmet, unmet_together

Array = NDArray[np.float64]
Choices = Mapping[str, Sequence[tuple[Tensor, float]]]
"""Name of a matrix to what may be decided for it: bits of sub-groups, `(groups,)`, and how little they are wanted."""
_ROUNDS = 8
_MOST = 20_000
"""Partial choices that are looked at side by side."""


class _Partial(NamedTuple):
    """Choices for the first few matrices that none of the others is better than in every respect.

    Attributes:
        score: total reluctance of each, `(partials,)`.
        spent: in each limit, `(partials, limits)`.
        choice: position for each matrix so far, `(partials, matrices)`.
    """

    score: Array
    spent: Array
    choice: NDArray[np.int64]


def choose_together(start: Assignment, choices: Choices, limits: Limits = ()) -> Assignment:
    """The assignment of least total reluctance that keeps the limits, which takes one of its choices for each matrix
    named and for all others what `start` has.

    Exact where a cost adds up over the matrices named, as bytes and operations do; where it does not, what the choices
    cost together is taken into account in a few rounds.

    Raises:
        BudgetError: when nothing keeps the limits.
    """
    likeliest = [min(range(len(several)), key=lambda place: several[place][1]) for several in choices.values()]
    found = _with(start, choices, likeliest)
    if _within(found, limits):
        return found
    least = _with(start, choices, [0] * len(choices))
    for limit in limits:
        if limit.cost.of(least) > limit.most:
            raise unmet(limit, limit.cost.of(least))
    prices = [_prices(start, choices, number, least, limits) for number in range(len(choices))]
    scores = [np.array([score for _, score in several]) for several in choices.values()]
    room = np.array([limit.most - limit.cost.of(least) for limit in limits])
    for _ in range(_ROUNDS):
        best = _best(scores, prices, room)
        if best is None:
            break
        found = _with(start, choices, best)
        excess = np.array([limit.cost.of(found) - limit.most for limit in limits])
        if (excess <= 0).all():
            return found
        room = room - np.maximum(excess, 0) * (1 + 1e-9)
    if _within(least, limits):
        return least
    raise unmet_together(limits, np.array([limit.cost.of(least) for limit in limits]))


def _with(start: Assignment, choices: Choices, places: Sequence[int]) -> Assignment:
    chosen = {
        name: replace(start.matrices[name], bits=tuple(several[place][0].tolist()))
        for (name, several), place in zip(choices.items(), places)
    }
    return Assignment({**start.matrices, **chosen}, start.activation_bits, start.shape)


def _within(assignment: Assignment, limits: Limits) -> bool:
    return all(limit.cost.of(assignment) <= limit.most for limit in limits)


def _prices(start: Assignment, choices: Choices, number: int, least: Assignment, limits: Limits) -> Array:
    """What each choice of one matrix costs more than the first, the others at theirs: `(choices, limits)`."""
    begin = np.array([limit.cost.of(least) for limit in limits])
    count = len(list(choices.values())[number])
    places = [[place if one == number else 0 for one in range(len(choices))] for place in range(count)]
    costs = [[limit.cost.of(_with(start, choices, several)) for limit in limits] for several in places]
    return np.array(costs) - begin


def _best(scores: Sequence[Array], prices: Sequence[Array], room: Array) -> list[int] | None:
    """Position of each matrix with the least total score within `room` `(limits,)`; None when nothing fits."""
    states = _Partial(np.zeros(1), np.zeros((1, len(room))), np.zeros((1, 0), dtype=np.int64))
    for score, price in zip(scores, prices):
        states = _kept(_extended(states, score, price), room)
        if not len(states.score):
            return None
    return states.choice[states.score.argmin()].tolist()


def _extended(states: _Partial, score: Array, price: Array) -> _Partial:
    every, places = len(states.score), len(score)
    before, place = np.repeat(np.arange(every), places), np.tile(np.arange(places), every)
    return _Partial(
        states.score[before] + score[place],
        states.spent[before] + price[place],
        np.column_stack([states.choice[before], place]),
    )


def _kept(states: _Partial, room: Array) -> _Partial:
    """Those that fit, and that no other is at least as good and as cheap as."""
    inside = (states.spent <= room * (1 + 1e-12)).all(1)
    order = np.flatnonzero(inside)
    order = order[np.lexsort((*states.spent[order].T[::-1], states.score[order]))]
    kept: list[int] = []
    for one in order.tolist():
        if len(kept) >= _MOST:
            break
        if not kept or not (states.spent[kept] <= states.spent[one]).all(1).any():
            kept.append(one)
    return _Partial(*(array[kept] for array in states))
