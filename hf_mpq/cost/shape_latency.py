"""Milliseconds of a shape of an encoder, predicted from a few dozen shapes that were measured on one machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

import numpy as np

Measured = tuple[int, int, int, float]
"""Layers, hidden size, feed-forward rows, milliseconds."""


@dataclass(frozen=True)
class ShapeLatencies:
    """Measured shapes, and the curve through them: `L (a + b h + c h f + d h^2) + e` for L layers, hidden size h and f
    feed-forward rows, by least squares of relative errors with no coefficient below 0. Bigger & Faster (Bailey et al.,
    2022) trains a network on 14,250 points for the same.

    Attributes:
        points: that the curve is fitted to, at least five.
        held_out: others, that say how far off it is.
    """

    points: tuple[Measured, ...]
    held_out: tuple[Measured, ...] = ()

    def __post_init__(self):
        every = (*self.points, *self.held_out)
        if len(self.points) < 5 or not all(isfinite(one[3]) and min(one) > 0 for one in every):
            raise ValueError("latencies of shapes need at least five points, with sizes and times above zero")

    def milliseconds(self, layers: int, hidden: int, rows: int) -> float:
        """Of one forward pass, predicted."""
        return float(_terms(layers, hidden, rows) @ self._coefficients)

    def errors(self) -> list[float]:
        """How far each held-out shape's prediction is from what was measured, as a share of it, at least 0."""
        return [abs(self.milliseconds(*sizes) / measured - 1) for *sizes, measured in self.held_out]

    @cached_property
    def _coefficients(self) -> np.ndarray:
        """By least squares; the most negative one is left out until none is left."""
        measured = np.array([one[3] for one in self.points])
        table = np.stack([_terms(*one[:3]) for one in self.points]) / measured[:, None]
        scales = table.max(axis=0)
        used, found = np.ones(len(scales), bool), np.zeros(len(scales))
        while used.any():
            found[:] = 0
            found[used] = np.linalg.lstsq(table[:, used] / scales[used], np.ones(len(table)), rcond=None)[0]
            if found.min() >= 0:
                break
            used[found.argmin()] = False
        return found / scales

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"points": [list(one) for one in self.points], "held_out": [list(one) for one in self.held_out]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "ShapeLatencies":
        """The inverse; raises KeyError, TypeError or ValueError when `content` is no such table."""
        return cls(*(_read(content[name]) for name in ("points", "held_out")))


def _terms(layers: int, hidden: int, rows: int) -> np.ndarray:
    return np.array([layers, layers * hidden, layers * hidden * rows, layers * hidden**2, 1.0], dtype=float)


def _read(points: Sequence[Sequence[float]]) -> tuple[Measured, ...]:
    return tuple((int(layers), int(hidden), int(rows), float(ms)) for layers, hidden, rows, ms in points)
