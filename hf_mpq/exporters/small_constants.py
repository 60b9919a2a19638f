"""Integer matrices in as few bytes as their rows need, and the way back in operators that every runtime folds."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

SMALLEST = 1024
"""Matrices with fewer values stay as they are."""
FEWEST = 256
"""Floats that are worth an operator."""


class Grid(NamedTuple):
    """`2 ** bits` levels from `low` on, `step` apart: 1, or 2 where all are odd."""

    bits: int
    low: int
    step: int = 1

    def holds(self, lowest: np.ndarray, highest: np.ndarray, odd: np.ndarray) -> np.ndarray:
        """Which lines are on it, by their lowest and highest level and whether all are odd, `(lines,)` each."""
        inside = (lowest >= self.low) & (highest <= self.low + self.step * (2**self.bits - 1))
        return inside & odd if self.step == 2 else inside

    def parts(self) -> Iterator[tuple[int, int]]:
        """Bits that fit a byte without a rest, the most significant first, and their place in a code."""
        place = self.bits
        for bits in (4, 2, 1):
            if self.bits & bits:
                place -= bits
                yield bits, place


GRIDS = (Grid(1, -1, 2), Grid(2, -3, 2), *(Grid(bits, -(2 ** (bits - 1))) for bits in range(2, 9)))
"""Narrower ones first; each is within all that have more bits."""


class Builder(Protocol):
    """How one runtime's format says things; a value of any kind stands for a tensor.

    Attributes:
        overhead: bytes of what it takes to look up a part of some codes, about.
    """

    overhead: int

    def constant(self, array: np.ndarray) -> Any:
        """A tensor that is stored."""

    def cast(self, x: Any, dtype: str) -> Any:
        """To a type by its numpy name."""

    def add(self, x: Any, y: Any) -> Any:
        """Of the same type."""

    def gather(self, x: Any, index: Any, axis: int) -> Any:
        """Rows or columns of a matrix."""

    def head(self, x: Any, count: int) -> Any:
        """The first values of a vector."""

    def reshape(self, x: Any, shape: Sequence[int]) -> Any:
        """One -1 is allowed."""

    def concat(self, parts: Sequence[Any], axis: int) -> Any:
        """One behind the other."""


def small_integers(levels: np.ndarray, build: Builder) -> Any | None:
    """A matrix whose rows, or columns, take as many bits as they need; those that are zero next to none.

    Args:
        levels: int8.

    Returns:
        An int8 tensor of the same shape and values; None where the plain one is as small.
    """
    if levels.size < SMALLEST or levels.ndim != 2:
        return None
    best = min((_Plan(levels, axis, build.overhead) for axis in (0, 1)), key=lambda plan: plan.cost)
    return best.expression(build) if best.cost < levels.size else None


def halved(values: np.ndarray) -> np.ndarray | None:
    """Float32 values as float16; None where there are few, or where that would round some."""
    if values.size < FEWEST or np.abs(values).max() > np.finfo(np.float16).max:
        return None
    half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), values) else None


class _Plan:
    """Which lines along one axis are stored on which grid."""

    def __init__(self, levels: np.ndarray, axis: int, overhead: int):
        self.levels, self.axis, self.overhead = levels, axis, overhead
        lines = np.moveaxis(levels, axis, 0)
        found = lines.min(1), lines.max(1), (lines & 1).all(1)
        needed = np.stack([grid.holds(*found) for grid in GRIDS]).argmax(0)
        zero = np.flatnonzero(~lines.any(1))
        needed[zero[1:]] = -1  # they read the first one
        self.lines = {grid: np.flatnonzero(needed == n) for n, grid in enumerate(GRIDS) if (needed == n).any()}
        self._merge(lines.shape[1])
        order = np.concatenate(list(self.lines.values()))
        self.index = np.empty(len(lines), np.int64)
        self.index[order] = np.arange(len(order))
        self.index[zero] = self.index[zero[:1]]

    @property
    def cost(self) -> float:
        """Bytes, about."""
        length = self.levels.shape[1 - self.axis]
        return sum(len(lines) * length * grid.bits / 8 + self._operators(grid) for grid, lines in self.lines.items())

    def _operators(self, grid: Grid) -> int:
        return self.overhead * len(list(grid.parts()))

    def _merge(self, length: int) -> None:
        """Move lines that save less than their operators take to the next wider grid that is used."""
        for grid in list(self.lines):
            wider = next((one for one in self.lines if one.bits > grid.bits), None)
            if wider is None:
                continue
            if len(self.lines[grid]) * length * (wider.bits - grid.bits) / 8 < self._operators(grid):
                self.lines[wider] = np.sort(np.concatenate([self.lines[wider], self.lines.pop(grid)]))

    def expression(self, build: Builder) -> Any:
        parts = [_stored(grid, self.levels.take(lines, self.axis), build) for grid, lines in self.lines.items()]
        together = parts[0] if len(parts) == 1 else build.concat(parts, self.axis)
        if np.array_equal(self.index, np.arange(len(self.index))):
            return together
        small = np.uint16 if self.index.max() < 2**16 else np.int32
        index = build.cast(build.constant(self.index.astype(small)), "int32")
        return build.gather(together, index, self.axis)


def _stored(grid: Grid, levels: np.ndarray, build: Builder) -> Any:
    """A matrix of which all values are on one grid, int8."""
    if grid.bits == 8:
        return build.constant(levels)
    codes = ((levels.astype(np.int16) - grid.low) // grid.step).astype(np.uint8)
    values = [_looked_up(codes, bits, place, grid, build) for bits, place in grid.parts()]
    if len(values) == 1:
        return values[0]
    total = build.cast(values[0], "int32")
    for value in values[1:]:
        total = build.add(total, build.cast(value, "int32"))
    return build.cast(total, "int8")


def _looked_up(codes: np.ndarray, bits: int, place: int, grid: Grid, build: Builder) -> Any:
    """What some bits of the codes stand for, int8: each byte, which holds several, looks its levels up in a table."""
    each, mask = 8 // bits, 2**bits - 1
    shifts = np.arange(each) * bits
    here = np.append(codes >> place & mask, np.zeros(-codes.size % each, np.uint8)).reshape(-1, each)
    octets = (here.astype(np.uint16) << shifts).sum(1).astype(np.uint8)
    base = grid.low if place + bits == grid.bits else 0
    table = base + grid.step * ((np.arange(256)[:, None] >> shifts & mask) << place)
    found = build.gather(build.constant(table.astype(np.int8)), build.cast(build.constant(octets), "int32"), 0)
    if codes.size % each:
        found = build.head(build.reshape(found, (-1,)), codes.size)
    return build.reshape(found, codes.shape)
