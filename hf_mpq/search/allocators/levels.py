"""Whole matrices and inputs on their ladders of precisions: where all stand, what it costs, one step up or down."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .exact_search import ExactSearch
from .knapsack import Array, Choice


@dataclass(frozen=True)
class Move:
    """One matrix (or tie) a candidate lower or higher.

    Attributes:
        step: matrix, its place before, and the direction: -1 or 1.
        place: of all matrices afterwards.
        more: what it costs, below 0 for what it saves, in the unit of `Levels.room`.
    """

    step: tuple[int, int, int]
    place: Choice
    more: float

    @property
    def down(self) -> bool:
        """Whether it lowers a precision."""
        return self.step[2] < 0


class Levels:
    """Places of the matrices of a search, `(matrices,)` positions in the candidates of each; tied ones are one.

    A sub-group whose scores forbid a candidate has the nearest one that they allow.

    Args:
        search: with units, exact cost and limit.

    Attributes:
        count: of matrices.
        top: highest position of each.
    """

    def __init__(self, search: ExactSearch):
        allowed = np.isfinite(search.units.score)
        self._search, self._blocks = search, [units for _, units in search.units.blocks]
        self._lowest, self._highest = allowed.argmax(axis=1), allowed.shape[1] - 1 - allowed[:, ::-1].argmax(axis=1)
        self.top = np.array([self._highest[units].max() for units in self._blocks], int)
        self.count = len(self._blocks)
        self._inputs = np.array([search.units.of_inputs[units.start] for units in self._blocks], bool)
        self._candidates = [search.units.candidates[units.start] for units in self._blocks]

    def choice(self, place: Choice) -> Choice:
        """Of every unit."""
        wanted = np.repeat(place, [units.stop - units.start for units in self._blocks])
        return np.clip(wanted, self._lowest, self._highest)

    def room(self, place: Choice) -> float:
        """What is left of the limit by the exact cost; of several, of their weighted sum, see `ExactSearch`."""
        return self._search.room(self.choice(place))

    def keeps(self, place: Choice) -> bool:
        """Whether all limits are kept."""
        return self._search.keeps(self.choice(place))

    @property
    def lowest(self) -> Choice:
        """Every matrix and input at its lowest candidate that scores allow."""
        return np.array([self._lowest[units].min() for units in self._blocks], int)

    def only_lowest(self) -> bool:
        """Whether nothing but the lowest keeps all limits: it does, and no step up from it."""
        return self.keeps(self.lowest) and not any(self.keeps(one.place) for one in self.moves(self.lowest))

    def start(self, bits: float | None) -> Choice:
        """Every matrix at its highest candidate up to so many bits, every input at its highest; None: matrices at the
        fewest bits that are too much for the limit, or the most that there are."""
        if bits is not None:
            return self._at(bits)
        rungs = np.unique(np.concatenate(self._candidates))
        places = [self._at(rung) for rung in rungs[np.isfinite(rungs)]]
        return next((one for one in places if not self.keeps(one)), places[-1])

    def moves(self, place: Choice) -> Iterator[Move]:
        """Every step from a place that changes something: one down only where it saves something."""
        here, room = self.choice(place), self.room(place)
        for matrix, level in enumerate(place.tolist()):
            for direction in (-1, 1):
                there = place.copy()
                there[matrix] += direction
                if not 0 <= there[matrix] <= self.top[matrix] or np.array_equal(self.choice(there), here):
                    continue
                more = room - self.room(there)
                if direction > 0 or more < 0:
                    yield Move((matrix, level, direction), there, more)

    def _at(self, bits: float) -> Choice:
        place = np.array([max(int((ladder <= bits).sum()) - 1, 0) for ladder in self._candidates], int)
        return np.where(self._inputs, self.top, place)


def normalised(values: Array) -> Array:
    """From 0 for the least to 1 for the largest; all 0 where they are equal."""
    least, most = values.min(initial=np.inf), values.max(initial=-np.inf)
    return (values - least) / (most - least) if most > least else np.zeros_like(values)
