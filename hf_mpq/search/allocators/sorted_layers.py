"""Q-BERT's rule: the most sensitive encoder layers get the higher of two precisions."""

import re
from dataclasses import dataclass

import numpy as np

from ...core import Assignment, PrecisionSpace
from ...cost import Limits
from .base import ALLOCATORS, Allocator, Evaluate, Scores
from .exact_search import ExactSearch
from .knapsack import Choice
from .start import begin, largest_within, needed, of_weights


@ALLOCATORS.register("sorted-layers")
@dataclass(frozen=True)
class SortedLayers(Allocator):
    """Whole layers at one of two precisions (Shen et al., AAAI 2020).

    Layers are sorted by the summed scores of their sub-groups at the lower precision. A matrix outside numbered layers
    is a layer of its own. Open inputs have the highest of their candidates. `evaluate` is not called.

    Args:
        bits: the lower and the higher precision; None takes the lowest candidate above 0 and the highest. Others than
            candidates are a ValueError.
        count: layers at the higher precision; None takes as many as the budget allows. More than that is a BudgetError.
    """

    bits: tuple[int, int] | None = None
    count: int | None = None

    def choose(
        self,
        space: PrecisionSpace,
        limits: Limits,
        scores: Scores | None = None,
        evaluate: Evaluate | None = None,
        progress: bool = False,
    ) -> Assignment:
        search = begin(space, limits, of_weights(space, needed(scores, "sorted-layers")))
        low, high = _positions(search, self.bits)
        layers = _layers(search)
        sensitivity = np.bincount(layers, weights=search.units.score[np.arange(len(low)), low])
        order = np.argsort(-sensitivity, kind="stable")
        chosen = lambda number: np.where(np.isin(layers, order[:number]), high, low)  # noqa: E731
        count = self.count
        if count is None:
            count, choice = largest_within(search, len(order), chosen)
        elif not 0 <= count <= len(order):
            raise ValueError(f"count must be 0 to {len(order)}, the number of layers, got {count}")
        else:
            choice = chosen(count) if search.keeps(chosen(count)) else None
        if choice is None:
            raise search.unmet(chosen(max(count, 0)), " by whole layers at two precisions")
        return search.units.assignment(choice)


def _positions(search: ExactSearch, bits: tuple[int, int] | None) -> tuple[Choice, Choice]:
    """Position of the lower and the higher precision among each unit's candidates, both `(units,)`."""
    candidates = search.units.candidates
    if bits is None:
        allowed = np.where(candidates > 0, candidates, np.inf)
        return allowed.argmin(axis=1), np.isfinite(candidates).sum(axis=1) - 1
    found = [(candidates == b) for b in sorted(bits)]
    if not all(here.any(axis=1).all() for here in found):
        raise ValueError(f"bits={bits} are not among the candidates of every matrix")
    return found[0].argmax(axis=1), found[1].argmax(axis=1)


def _layers(search: ExactSearch) -> Choice:
    """Number of the layer of each unit, `(units,)`."""
    numbers: dict[str, int] = {}
    found = [re.match(r".*?\.\d+(?=\.)", name) for name in search.units.names]
    keys = [match.group() if match else name for match, name in zip(found, search.units.names)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=int)
