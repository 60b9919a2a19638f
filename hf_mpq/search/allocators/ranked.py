"""Every combination of precisions for the kinds of matrices, ranked: NxMiFormer's heterogeneous search."""

import re
from collections.abc import Callable
from itertools import islice, product

import numpy as np

from ...core import Assignment, Budget, BudgetError, PrecisionSpace
from ...cost import CostModel
from .base import ALLOCATORS, Scores
from .exact_search import ExactSearch
from .knapsack import Choice
from .start import begin, no_scores


@ALLOCATORS.register("ranked")
def allocate_ranked(
    space: PrecisionSpace,
    cost: CostModel,
    budget: Budget | str | float,
    scores: Scores | None = None,
    evaluate: Callable[[Assignment], float] | None = None,
    evaluations: int = 32,
    combinations: int = 20_000,
    seed: int = 0,
    progress: bool = False,
) -> Assignment:
    """The best of `ranked_candidates`."""
    return ranked_candidates(space, cost, budget, scores, evaluate, 1, evaluations, combinations, seed)[0][0]


def ranked_candidates(
    space: PrecisionSpace,
    cost: CostModel,
    budget: Budget | str | float,
    scores: Scores | None = None,
    evaluate: Callable[[Assignment], float] | None = None,
    keep: int = 5,
    evaluations: int = 32,
    combinations: int = 20_000,
    seed: int = 0,
) -> list[tuple[Assignment, float]]:
    """Assignments in which all layers are alike, best first, each with its damage (or its score without `evaluate`).

    A kind of matrix is its name without the layer's number (query, key, ..., down); all matrices of a kind share one
    precision. All combinations within the budget are candidates (Holmes et al., 2022, section 3.4).

    Args:
        keep: candidates to return.
        evaluations: at most so many are measured: those of the lowest scores, or without scores the dearest ones.
        combinations: above so many, a random sample of as many is taken.
        seed: of that sample.

    Raises:
        BudgetError, ValueError: as `Allocator` says; ValueError also when there are neither scores nor `evaluate`.
    """
    if scores is None and evaluate is None:
        raise ValueError("ranking needs scores or evaluate, a function from an assignment to its damage")
    search = begin(space, cost, budget, no_scores(space) if scores is None else scores)
    search.smallest()
    fitting = _fitting(search, combinations, np.random.default_rng(seed))
    sums = search.knapsack.total_score if scores is not None else lambda choice: -search.knapsack.total_cost(choice)
    found = sorted(((sums(choice), number) for number, choice in enumerate(fitting)))
    best = [fitting[number] for _, number in found]
    if evaluate is None:
        return [(search.units.assignment(choice), value) for choice, (value, _) in zip(best[:keep], found)]
    assignments = [search.units.assignment(choice) for choice in best[:evaluations]]
    return sorted(((a, evaluate(a)) for a in assignments), key=lambda pair: pair[1])[:keep]


def _fitting(search: ExactSearch, combinations: int, random: np.random.Generator) -> list[Choice]:
    """Every combination (or a sample) that keeps the limit by its exact cost."""
    kinds = _kinds(search)
    widths = [int(np.isfinite(search.units.score[kinds == kind]).sum(axis=1).min()) for kind in range(kinds.max() + 1)]
    total = int(np.prod([float(width) for width in widths]))
    every = product(*(range(width) for width in widths))
    if total > combinations:
        every = ([int(random.integers(width)) for width in widths] for _ in range(combinations))
    choices = (np.array(one)[kinds] for one in islice(every, min(total, combinations)))
    linear = search.knapsack.total_cost(search.knapsack.cheapest) - search.spent(search.knapsack.cheapest)
    near = (choice for choice in choices if search.knapsack.total_cost(choice) - linear <= 1.1 * search.limit)
    fitting = [choice for choice in near if search.spent(choice) <= search.limit]
    if not fitting:
        raise BudgetError(f"no combination was found within the budget of {search.budget:,.6g} {search.cost.unit}; the "
                          f"smallest possible is {search.smallest():,.6g}; try more combinations")  # fmt: skip
    return fitting


def _kinds(search: ExactSearch) -> Choice:
    """Number of the kind of matrix of each unit."""
    numbers: dict[str, int] = {}
    names = [re.sub(r"\.\d+(?=\.)", ".*", name) for name in search.units.names]
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=int)
