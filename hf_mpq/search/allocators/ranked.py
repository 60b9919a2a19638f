"""Every combination of precisions for the kinds of matrices, ranked: NxMiFormer's heterogeneous search."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from ...core import Assignment, PrecisionSpace, track
from ...cost import CostModel, Limits, given_limits
from .base import ALLOCATORS, Allocator, Evaluate, Given, Scores
from .exact_search import ExactSearch
from .knapsack import Array, Choice
from .start import begin, no_scores


@ALLOCATORS.register("ranked")
@dataclass(frozen=True)
class Ranked(Allocator):
    """The best of `ranked_candidates`; see there for the options."""

    needs_scores = False

    evaluations: int = 32
    combinations: int = 20_000
    seed: int = 0

    def choose(
        self,
        space: PrecisionSpace,
        limits: Limits,
        scores: Scores | None = None,
        evaluate: Evaluate | None = None,
        progress: bool = False,
    ) -> Assignment:
        options = {"evaluations": self.evaluations, "combinations": self.combinations, "seed": self.seed}
        return rank(space, limits, scores, evaluate, 1, progress=progress, **options)[0][0]

    def evaluation_count(self, space: PrecisionSpace) -> int:
        return self.evaluations


def ranked_candidates(
    space: PrecisionSpace,
    cost: CostModel,
    budget: Given,
    scores: Scores | None = None,
    evaluate: Callable[[Assignment], float] | None = None,
    keep: int = 5,
    **options: Any,
) -> list[tuple[Assignment, float]]:
    """As `rank`, within a budget as of `Allocator`; `options` are the others of `rank`."""
    return rank(space, given_limits(cost, budget), scores, evaluate, keep, **options)


def rank(
    space: PrecisionSpace,
    limits: Limits,
    scores: Scores | None = None,
    evaluate: Callable[[Assignment], float] | None = None,
    keep: int = 5,
    evaluations: int = 32,
    combinations: int = 20_000,
    seed: int = 0,
    progress: bool = False,
) -> list[tuple[Assignment, float]]:
    """Assignments in which all layers are alike, best first, each with its damage (or its score without `evaluate`).

    A kind of matrix is its name without the layer's number (query, key, ..., down); all matrices of a kind share one
    precision. All combinations within the limits are candidates (Holmes et al., 2022, section 3.4).

    Args:
        keep: candidates to return.
        evaluations: at most so many are measured: those of the lowest scores, or without scores the dearest ones.
        combinations: above so many, a random sample of as many is taken.
        seed: of that sample.
        progress: show a progress bar while measuring.

    Raises:
        BudgetError, ValueError: as `Allocator` says; ValueError also when there are neither scores nor `evaluate`.
    """
    if scores is None and evaluate is None:
        raise ValueError("ranking needs scores or evaluate, a function from an assignment to its damage")
    search = begin(space, limits, no_scores(space) if scores is None else scores)
    search.smallest()
    wanted = keep if evaluate is None else evaluations
    found = _fitting(search, scores is not None, wanted, combinations, np.random.default_rng(seed))
    assignments = [(search.units.assignment(choice), value) for choice, value in found]
    if evaluate is None:
        return assignments
    measured = track(assignments, "ranking", disable=not progress)
    return sorted(((one, evaluate(one)) for one, _ in measured), key=lambda pair: pair[1])[:keep]


def _fitting(
    search: ExactSearch, by_score: bool, wanted: int, combinations: int, random: np.random.Generator
) -> list[tuple[Choice, float]]:
    """The first `wanted` combinations within the limit, with the value that they are ordered by: score, or minus cost.

    Whole matrices of one precision have no map, so without pruning and with decided inputs the exact cost is the linear
    one plus a constant; pruning may only save more.
    """
    kinds = _kinds(search)
    every = _combinations(search, kinds, combinations, random)  # (combinations, kinds)
    costs, scores = (_sums(table, kinds, every) for table in (search.knapsack.cost, search.knapsack.score))
    values, dearest = scores if by_score else -costs, every[costs.argmax()][kinds]
    linear = costs + search.weigh(search.spent(dearest)) - search.knapsack.total_cost(dearest)
    prunes = np.array([(search.units.candidates[kinds == kind, 0] == 0).any() for kind in range(every.shape[1])])
    plain = ~((every == 0) & prunes).any(axis=1) & (not search.units.moving_inputs)
    possible = (linear <= search.limit * (1 + 1e-9)) | ~plain
    order = np.argsort(values, kind="stable")
    fitting: list[tuple[Choice, float]] = []
    for number in order[possible[order]]:
        choice = every[number][kinds]
        if search.keeps(choice):
            fitting.append((choice, float(values[number])))
        if len(fitting) == wanted:
            break
    if not fitting:
        raise search.unmet(search.knapsack.cheapest, " by any combination that was tried: try more combinations")
    return fitting


def _combinations(search: ExactSearch, kinds: Choice, most: int, random: np.random.Generator) -> Choice:
    """Position of the choice of each kind, `(combinations, kinds)`: all, or a sample with the lowest of all."""
    counts = np.isfinite(search.units.score).sum(axis=1)
    widths = [int(counts[kinds == kind].min()) for kind in range(kinds.max(initial=-1) + 1)]
    if prod(widths) <= most:
        return np.array(list(product(*map(range, widths)))).reshape(prod(widths), len(widths))
    drawn = random.integers(0, widths, size=(most, len(widths)))
    return np.unique(np.concatenate([np.zeros((1, len(widths)), int), drawn]), axis=0)


def _sums(table: Array, kinds: Choice, every: Choice) -> Array:
    """Sum of `table` `(units, choices)` for each combination: `(combinations,)`."""
    found = np.zeros(len(every))
    for kind, positions in enumerate(every.T):
        found += table[kinds == kind].sum(axis=0)[positions]
    return found


def _kinds(search: ExactSearch) -> Choice:
    """Number of the kind of matrix of each unit."""
    numbers: dict[str, int] = {}
    names = [re.sub(r"\.\d+(?=\.)", ".*", name) for name in search.units.names]
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=int)
