"""Where the logits of the gates start."""

from collections.abc import Callable
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core import OpenChoice, PrecisionSpace, Registry
from ...cost import Limits
from ..allocators.balance import balanced
from ..allocators.base import Scores
from ..allocators.units import Units

LARGEST = 4.0
"""Logits start within plus and minus this."""

GATE_STARTS: Registry[Callable[[OpenChoice], Tensor]] = Registry("start of the gates")


@GATE_STARTS.register("zeros")
def even(choice: OpenChoice) -> Tensor:
    """All candidates alike: `(groups, candidates)` zeros."""
    return torch.zeros(choice.groups, len(choice.candidates))


@GATE_STARTS.register("bits")
def by_bits(choice: OpenChoice) -> Tensor:
    """Each precision over the highest one (PLiNIO): `(groups, candidates)`, 0 to 1."""
    bits = torch.tensor(choice.candidates, dtype=torch.float32)
    return (bits / bits.max().clamp(min=1)).repeat(choice.groups, 1)


@GATE_STARTS.register("top")
def from_the_top(choice: OpenChoice) -> Tensor:
    """Each candidate nine times as likely as the one below it: `(groups, candidates)`, multiples of log 9."""
    return torch.arange(len(choice.candidates)).mul(log(9)).repeat(choice.groups, 1)


FROM_SCORES = "scores"


def start_logits(start: str, space: PrecisionSpace, limits: Limits, scores: Scores | None) -> dict[str, Tensor]:
    """First logits of everything in `space.open_choices`, by name: `(groups, candidates)` each.

    Raises:
        ValueError: when they are made of scores, and scores or amounts are missing.
    """
    if start != FROM_SCORES:
        return {name: GATE_STARTS[start](one) for name, one in space.open_choices.items()}
    if scores is None or any(limit.amount is None for limit in limits):
        lacking = "scores: name a scorer" if scores is None else "a budget, such as MPQConfig(budget='2.5bits')"
        raise ValueError(f"start='scores' needs {lacking}; or start from 'zeros', 'bits' or 'top'")
    return logits_of_scores(space, limits, scores)


def logits_of_scores(
    space: PrecisionSpace, limits: Limits, scores: Scores, sharpness: float = 1.0
) -> dict[str, Tensor]:
    """Logits whose argmax is the Lagrangian's assignment, surer where its margin is larger. Ours.

    `logit = -sharpness (S + lambda c) / m`, with the score S and the price c of each choice around the assignment, its
    multiplier lambda, and the median m over sub-groups of what the second best choice is worse. The best choice of each
    sub-group is moved to 4 and nothing is below -4. Tied sub-groups start alike. Inputs without scores start from their
    bits.

    Returns:
        Name to `(groups, candidates)`, for everything in `space.open_choices`.

    Raises:
        BudgetError: when nothing keeps the limits.
        ValueError: when scores are missing or do not fit.
    """
    units = Units(space, scores)
    worse = _worse_than_best(units, limits)
    logits = np.maximum(LARGEST - sharpness * worse / _median_margin(worse), -LARGEST)
    tables = {}
    for names, rows in units.blocks:
        for name in names:
            tables[name] = torch.from_numpy(logits[rows, : len(units.candidates_of(name))]).float()
    return {name: tables[name] if name in tables else by_bits(one) for name, one in space.open_choices.items()}


def _worse_than_best(units: Units, limits: Limits) -> NDArray[np.float64]:
    """What each choice is worse than the best of its unit in score plus multiplier times price, `(units, choices)`."""
    search, choice = balanced(units, limits)
    _, multiplier = search.bound(choice, search.spent(choice))
    prices = np.nan_to_num(search.prices(choice))
    total = np.where(np.isfinite(units.score), units.score + multiplier * prices, np.inf)
    return total - total.min(axis=1, keepdims=True)


def _median_margin(worse: NDArray[np.float64]) -> float:
    """Median over the units that have a choice of how much worse the second best is; above zero."""
    margins = np.sort(worse, axis=1)[:, 1:2]
    margins = margins[np.isfinite(margins) & (margins > 0)]
    return float(np.median(margins)) if len(margins) else 1.0
