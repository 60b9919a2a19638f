"""A walk over the places of whole matrices that is led by measured damage."""

from collections.abc import Callable
from itertools import islice, product

import numpy as np

from .knapsack import Array, Choice
from .levels import Levels, Move, normalised


class MeasuredWalk:
    """What one search has measured.

    Args:
        levels: where matrices may stand.
        damage: of a choice for every unit.
        weight: of the damage against the cost while the limit is not met.
        measured: moves that a step measures; None for all.
    """

    def __init__(self, levels: Levels, damage: Callable[[Choice], float], weight: float, measured: int | None = None):
        self.levels, self._damage, self.weight, self.measured = levels, damage, weight, measured
        self._damages: dict[bytes, float] = {}
        self._changes: dict[tuple[int, int, int], float] = {}  # what each step did to the damage when it was measured

    def found(self, start: float | None, steps: int, patience: int) -> Choice | None:
        """The choice for every unit; None where no place meets the limit. Arguments as of `descended` and `refined`."""
        if self.levels.only_lowest():
            return self.levels.choice(self.levels.lowest)
        place = self.descended(start)
        return None if place is None else self.levels.choice(self.refined(place, steps, patience))

    def descended(self, start: float | None) -> Choice | None:
        """Where the limit is met first, None where it is not; from `start` bits on, see `Levels.start`."""
        place = self.levels.start(start)
        been, patience = {place.tobytes()}, int(place.sum())
        while not self.levels.keeps(place):
            moves = list(self.levels.moves(place))
            down = [one for one in moves if one.down]
            new = [one for one in moves if one.place.tobytes() not in been] if len(been) <= patience else down
            if not down:
                return None
            place = self._best(place, new or down).place
            been.add(place.tobytes())
        return place

    def refined(self, place: Choice, steps: int, patience: int) -> Choice:
        """The best place within the limit of at most so many steps from one on; `patience` of them without a better one
        are the last."""
        best, been, idle = place, {place.tobytes()}, 0
        for _ in range(steps):
            found = self._neighbour(place, been) if idle < patience else None
            if found is None:
                break
            place = found
            been.add(place.tobytes())
            best, idle = (place, 0) if self._at(place) < self._at(best) else (best, idle + 1)
        return best

    def _best(self, place: Choice, moves: list[Move]) -> Move:
        """The move with the least of damage and cost together, among those that are measured now."""
        expected, costs = self._expected(place, moves), np.array([one.more for one in moves])
        chosen = np.argsort(self._objective(expected, costs), kind="stable")[: self.measured]
        for position in chosen:
            expected[position] = self._measured(place, moves[position])
        return moves[min(chosen, key=self._objective(expected, costs).__getitem__)]

    def _objective(self, damages: Array, costs: Array) -> Array:
        return self.weight * normalised(damages) + normalised(costs)

    def _neighbour(self, place: Choice, been: set[bytes]) -> Choice | None:
        """Of the new places within the limit that one move, or one up and another down, leads to, that of least damage
        among those that are measured now."""
        now, room = self._at(place), self.levels.room(place)
        moves = list(self.levels.moves(place))
        known = list(zip(self._expected(place, moves), moves))
        found = [(damage, one.place) for damage, one in known]
        ups, downs = ([pair for pair in known if pair[1].down == down] for down in (False, True))
        for (gain, up), (loss, down) in product(ups, downs):
            if up.step[0] != down.step[0] and up.more + down.more <= room:
                found.append((gain + loss - now, up.place + down.place - place))
        new = sorted((one for one in found if one[1].tobytes() not in been), key=lambda one: one[0])
        within = (there for _, there in new if self.levels.keeps(there))
        return min(islice(within, self.measured or len(moves)), key=self._at, default=None)

    def _expected(self, place: Choice, moves: list[Move]) -> Array:
        """Damage after each move: measured, or by what the same step did before where only some are measured."""
        fresh = self.measured is None
        now = self._at(place)
        return np.array(
            [
                self._measured(place, one) if fresh or one.step not in self._changes else now + self._changes[one.step]
                for one in moves
            ]
        )

    def _measured(self, place: Choice, move: Move) -> float:
        self._changes[move.step] = self._at(move.place) - self._at(place)
        return self._at(move.place)

    def _at(self, place: Choice) -> float:
        """Damage at a place, measured once."""
        key = place.tobytes()
        if key not in self._damages:
            self._damages[key] = self._damage(self.levels.choice(place))
        return self._damages[key]
