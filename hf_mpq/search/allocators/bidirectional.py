"""Greedy in both directions over measured damage: whole matrices, one precision up or down at a time."""

from dataclasses import dataclass

from ...core import Assignment, PrecisionSpace, bars
from ...cost import Limits
from .base import ALLOCATORS, Allocator, Evaluate, Scores
from .knapsack import Choice
from .levels import Levels
from .measured_walk import MeasuredWalk
from .start import begin, no_scores


@ALLOCATORS.register("bidirectional")
@dataclass(frozen=True)
class Bidirectional(Allocator):
    """The search of one-shot weight coupling (RFQuant, CVPR 2024), without its half over activations.

    Every step measures each matrix one precision lower and one higher, and makes the move of the least
    `weight * norm(damage) + norm(cost)`, both from 0 to 1 over the moves of the step, until the budget is met. All
    sub-groups of a matrix (or of tied ones) move together. Of `scores` only what they forbid is looked at.

    Ours: no assignment is returned to, and after as many moves as a plain descent has at most all go down, so that it
    ends. What is then left of the budget is used: the best new assignment within it that is one move, or one up and
    another down, away is taken, also where it is worse, until a while brought none better; the best of all is the
    result. The paper stops where its target is met, and measures on another batch in every step.

    Args:
        start: everything begins at its highest precision up to so many bits; None at the lowest one that is too much
            for the budget.
        weight: of the damage against the cost.
        measured: moves that a step measures, the most promising by what they did when they were last measured; None
            measures all, as the paper.
        patience: steps without a better assignment that end the search; 0 stops where the budget is met, as the paper.

    Raises:
        ValueError: for a `measured` below 1, or a `patience` below 0.
    """

    needs_scores = False
    reads_scores = False
    needs_evaluate = True

    start: int | None = None
    weight: float = 1.5
    measured: int | None = None
    patience: int = 6

    def __post_init__(self) -> None:
        if self.measured is not None and self.measured < 1:
            raise ValueError(f"measured is a number of moves, at least 1, or None for all; got {self.measured}")
        if self.patience < 0:
            raise ValueError(f"patience is a number of steps from 0, got {self.patience}")

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
                "the bidirectional allocator measures assignments: give evaluate, a function from an assignment to its "
                "damage"
            )
        search = begin(space, limits, no_scores(space) if scores is None else scores)
        search.smallest()
        with bars(disable=not progress) as shown:
            bar = shown.add_task("bidirectional search", total=None)

            def damage(choice: Choice) -> float:
                shown.advance(bar)
                return evaluate(search.units.assignment(choice))

            walk = MeasuredWalk(Levels(search), damage, self.weight, self.measured)
            found = walk.found(self.start, self._steps(walk.levels.count), self.patience)
        return search.units.assignment(search.project()[0] if found is None else found)

    def evaluation_count(self, space: PrecisionSpace) -> int:
        ladders = [len(spec.candidates) - 1 for spec in space.weights.values() if spec.bits is None]
        moves = 2 * len(ladders)
        each = moves if self.measured is None else min(self.measured + 2, moves)
        return 1 + moves + 2 * sum(ladders) * each + 2 * self._steps(len(ladders)) * each

    def _steps(self, matrices: int) -> int:
        """Steps within the budget at most."""
        return self.patience and self.patience + 2 * matrices
