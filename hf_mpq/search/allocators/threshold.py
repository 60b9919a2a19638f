"""Class-based quantization's search: thresholds on one axis of importance, raised while the model still does well."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np

from ...core import Assignment, PrecisionSpace, bars
from ...cost import Limits
from .base import ALLOCATORS, Allocator, Evaluate, Scores
from .exact_search import ExactSearch
from .knapsack import Array, Choice
from .start import begin, largest_within, needed, of_weights


@ALLOCATORS.register("threshold")
@dataclass(frozen=True)
class Thresholds(Allocator):
    """A sub-group gets as many candidates above its lowest as there are thresholds below its importance.

    Reconstructed after Sun et al., DATE 2023, whose search is not public. Importance is the score of the lowest
    candidate (of `class-importance`, gamma), measured in ranks from 0 to 1 so that a step always moves some sub-groups.
    All thresholds begin at 0, everything at its highest candidate. The highest threshold is raised by steps while
    `evaluate` (damage, lower is better, 0 for the float model) stays within its allowance, then the next one with a
    larger allowance; it ends as soon as the budget is met. If it is not met by then, the threshold whose step hurts
    least is raised, again and again. Of the last step as much is taken back as the budget allows. There are at most
    `thresholds / step` evaluations. Open inputs have the highest of their candidates.

    Args:
        first_drop: damage that raising the highest threshold may do.
        ratio: by how much the allowance grows from threshold to threshold.
        step: of a threshold, as a share of all sub-groups.

    Raises:
        ValueError: for a step outside 0 to 1.
    """

    needs_evaluate = True

    first_drop: float = 0.01
    ratio: float = 2.0
    step: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1:
            raise ValueError(f"step must be above 0 and at most 1, got {self.step}")

    def choose(
        self,
        space: PrecisionSpace,
        limits: Limits,
        scores: Scores | None = None,
        evaluate: Evaluate | None = None,
        progress: bool = False,
    ) -> Assignment:
        if evaluate is None:
            raise ValueError(
                "the threshold allocator measures assignments: give evaluate, a function from an assignment to its "
                "damage"
            )
        search = begin(space, limits, of_weights(space, needed(scores, "threshold")))
        search.smallest()
        positions = _Positions(search, self.step, evaluate)
        with bars(disable=not progress) as shown:
            bar = shown.add_task("thresholds", total=positions.most)
            positions.seen = lambda: shown.advance(bar)
            for number in reversed(range(positions.count)):
                positions.raise_while(number, self.first_drop * self.ratio ** (positions.count - 1 - number))
            positions.raise_until_met()
        positions.settle()
        return search.units.assignment(positions.choice())

    def evaluation_count(self, space: PrecisionSpace) -> int:
        return max(len(spec.candidates) - 1 for spec in space.weights.values()) * ceil(1 / self.step)


class _Positions:
    """Positions of the thresholds, in steps; `count` thresholds from the lowest to the highest."""

    def __init__(self, search: ExactSearch, step: float, evaluate: Callable[[Assignment], float]):
        self.search, self.step, self.evaluate = search, step, evaluate
        self.count = search.units.score.shape[1] - 1
        self.steps = ceil(1 / step)
        self.positions = np.zeros(self.count)
        self.last = 0  # threshold that was raised last
        self.used = 0  # evaluations so far
        self.most = self.count * self.steps
        self.rank = _ranks(search.units.score[:, 0])
        self.spare = np.isfinite(search.units.score).sum(axis=1) - 1  # thresholds that a unit has
        self.seen: Callable[[], None] = lambda: None

    def choice(self, positions: Choice | None = None) -> Choice:
        """Thresholds below each unit's rank; units with fewer candidates pass over the lowest thresholds."""
        above = self.rank[:, None] > (self.positions if positions is None else positions)[None] * self.step
        return np.maximum(above.sum(axis=1) - (self.count - self.spare), 0)

    @property
    def met(self) -> bool:
        """Whether the budget is met."""
        return self.search.keeps(self.choice())

    def damage(self, positions: Choice) -> float:
        """Of the assignment at other positions."""
        self.seen()
        self.used += 1
        return self.evaluate(self.search.units.assignment(self.choice(positions)))

    def raised(self, number: int) -> Choice | None:
        """Positions after a step of one threshold; None at the end of the axis or of the next threshold."""
        positions = self.positions.copy()
        positions[number] += 1
        above = positions[number + 1] if number + 1 < self.count else self.steps
        return positions if positions[number] <= above else None

    def raise_while(self, number: int, allowed: float) -> None:
        """Raise one threshold while the damage is allowed and the budget not met."""
        while not self.met and self.used < self.most:
            positions = self.raised(number)
            if positions is None or self.damage(positions) > allowed:
                return
            self.positions, self.last = positions, number

    def raise_until_met(self) -> None:
        """Raise the threshold that hurts least until the budget is met.

        A damage that was measured before other thresholds rose is taken as a lower bound, so that only the lowest one
        is measured again.
        """
        known = dict.fromkeys(range(self.count), -np.inf)
        while not self.met:
            options = {number: positions for number in known if (positions := self.raised(number)) is not None}
            if not options:
                raise self.search.unmet(self.search.knapsack.cheapest)
            self.last = self._least(options, known)
            self.positions = options[self.last]

    def _least(self, options: dict[int, Choice], known: dict[int, float]) -> int:
        fresh: set[int] = set()
        while True:
            number = min(options, key=known.__getitem__)
            if number in fresh or self.used >= self.most:
                return number
            known[number] = self.damage(options[number])
            fresh.add(number)

    def settle(self) -> None:
        """Take back as much of the last step as the budget allows."""
        end = self.positions[self.last] * self.step
        within = np.unique(self.rank[(self.rank > end - self.step) & (self.rank <= end)])[::-1]
        if not self.met or not len(within):
            return
        positions = np.tile(self.positions, (len(within) + 1, 1))
        positions[1:, self.last] = (np.append(within[1:], end - self.step) + 1e-12) / self.step
        number, _ = largest_within(self.search, len(within), lambda number: self.choice(positions[number]))
        self.positions = positions[max(number, 0)]


def _ranks(importance: Array) -> Array:
    """Share of units that are at most as important, in (0, 1]."""
    return np.searchsorted(np.sort(importance), importance, side="right") / max(len(importance), 1)
