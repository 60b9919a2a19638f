"""A plan's points as Optuna has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._extras import require
from .axes import PLAIN, Range, word_of
from .plan import Plan, Point

with require("sweep", "a sweep"):
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )


class Space:
    """What varies in a plan, and what is the same in all its points.

    Attributes:
        distributions: of each axis that varies, by name.
    """

    def __init__(self, plan: Plan):
        self._plan, self._axes = plan, plan.varied
        self.distributions = {name: _distribution(axis) for name, axis in self._axes.items()}

    def has(self, params: Mapping[str, Any]) -> bool:
        """Whether these are values of a point of the space."""
        return params.keys() == self.distributions.keys() and all(
            _has(self.distributions[name], word) for name, word in params.items()
        )

    def point(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Values of a trial, with those that are the same in all."""
        chosen = {
            name: word if isinstance(self._axes[name], Range) else self._axes[name].value_of(word)
            for name, word in params.items()
        }
        fixed = {name: axis.values[0] for name, axis in self._plan.axes.items() if name not in self._axes}
        return {**fixed, **chosen}

    def params(self, point: Point) -> dict[str, Any]:
        """What Optuna has for a point."""
        varied = {name: value for name, value in point.items() if name in self._axes}
        return {name: value if isinstance(value, PLAIN) else word_of(value) for name, value in varied.items()}


def _distribution(axis: Any) -> BaseDistribution:
    if not isinstance(axis, Range):
        return CategoricalDistribution(axis.words())
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log, step=int(axis.step or 1))
    return FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)


def _has(distribution: BaseDistribution, word: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return word in distribution.choices
    return isinstance(word, int | float) and distribution.low <= word <= distribution.high
