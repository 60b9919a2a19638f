"""The open choices of a precision space as arrays: one unit for each sub-group, or for each set of tied sub-groups."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...core import Assignment, MatrixAssignment, PrecisionSpace, WeightSpec
from ...cost import CostModel
from ...cost.exact import ExactMatrix, matrices_with
from .base import Scores


class Units:
    """Every unit of `space` that is still open, with its score; units of one matrix (or tie) lie together.

    Attributes:
        members: names of the matrices of each block of units: several where they are tied.
        score: `(units, choices)`; infinite where a unit has fewer candidates.
        kinds: number of the kind of each unit, `(units,)`; units of one kind are equally large parts of one matrix.

    Raises:
        ValueError: when scores are missing or do not fit, or when tied matrices differ in candidates or sub-groups.
    """

    def __init__(self, space: PrecisionSpace, scores: Scores):
        self.space = space
        self.members = _members(space.weights)
        self._first = {key: space.weights[names[0]] for key, names in self.members.items()}
        self._width = max((len(spec.candidates) for spec in self._first.values()), default=1)
        self.score = self._join({name: _checked(name, spec, scores) for name, spec in _open(space.weights).items()})
        self.kinds = self._kinds()

    @cached_property
    def candidates(self) -> NDArray[np.float64]:
        """Precision of each choice, `(units, choices)`; infinite where a unit has fewer candidates."""
        tables = {
            name: np.tile(np.array(spec.candidates, float), (spec.layout.count, 1))
            for name, spec in _open(self.space.weights).items()
        }
        return self._join({name: table / self._tied(name) for name, table in tables.items()})

    @cached_property
    def sizes(self) -> list[int]:
        """Number of units of each matrix, or set of tied ones."""
        return [spec.layout.count for spec in self._first.values()]

    @cached_property
    def names(self) -> list[str]:
        """First matrix of each unit, `units` names."""
        return [names[0] for names, size in zip(self.members.values(), self.sizes) for _ in range(size)]

    def _tied(self, name: str) -> int:
        return next(len(names) for names in self.members.values() if name in names)

    def prices(
        self,
        cost: CostModel,
        live_columns: Mapping[str, int] | None = None,
        readers: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> NDArray[np.float64]:
        """What each choice adds to `cost`: `(units, choices)`.

        Args:
            cost: what is counted.
            live_columns: input columns of each matrix that are still read; None means all.
            readers: what else keeping each sub-group costs, matrix name to `(groups,)`.
        """
        live = live_columns or {}
        tables = {name: cost.table(name, live.get(name)).numpy() for name in _open(self.space.weights)}
        for name, extra in (readers or {}).items():
            tables[name] = tables[name] + np.outer(extra, np.array(self.space.weights[name].candidates) > 0)
        return self._join(tables)

    @cached_property
    def blocks(self) -> list[tuple[list[str], slice]]:
        """Names of the matrices of each block, with where its units lie."""
        ends = np.cumsum(self.sizes, dtype=int).tolist()
        return [(names, slice(end - size, end)) for names, size, end in zip(self.members.values(), self.sizes, ends)]

    def bits(self, choice: NDArray[np.int64]) -> dict[str, NDArray[np.uint8]]:
        """Bits of the sub-groups of every matrix, `(groups,)` each; `choice` `(units,)` where they are open."""
        bits = dict(self._fixed_bits)
        for (names, units), spec in zip(self.blocks, self._first.values()):
            bits |= dict.fromkeys(names, np.array(spec.candidates, np.uint8)[choice[units]])
        return bits

    def matrices(self, choice: NDArray[np.int64]) -> dict[str, ExactMatrix]:
        """The assignment that has `choice`, matrix by matrix."""
        return matrices_with(self.space, self.bits(choice))

    def assignment(self, choice: NDArray[np.int64]) -> Assignment:
        """The whole assignment that has `choice` `(units,)` and the fixed bits of all other matrices."""
        bits = self.bits(choice)
        matrices = {name: _matrix(spec, tuple(bits[name].tolist())) for name, spec in self.space.weights.items()}
        inputs = {name: spec.activation.bits for name, spec in self.space.weights.items() if spec.activation}
        return Assignment(matrices, inputs)

    @cached_property
    def _fixed_bits(self) -> dict[str, NDArray[np.uint8]]:
        return {name: np.array(spec.bits or (), np.uint8) for name, spec in self.space.weights.items()}

    def move_kinds(self, choice: NDArray[np.int64]) -> NDArray[np.int64]:
        """A number for each kind of move from `choice`, `(units, choices)`."""
        width = self.score.shape[1]
        return (self.kinds * width + choice)[:, None] * width + np.arange(width)

    def _join(self, tables: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Tables `(groups, candidates)`, added over tied matrices, below each other; padded with infinity."""
        joined = np.full((sum(self.sizes), self._width), np.inf)
        for names, units in self.blocks:
            tied = [tables[name] for name in names]
            joined[units, : tied[0].shape[1]] = tied[0] if len(tied) == 1 else sum(tied)
        return joined

    def _kinds(self) -> NDArray[np.int64]:
        sizes = [np.array(spec.layout.sizes) for spec in self._first.values()]
        largest = max((int(size.max()) for size in sizes), default=0) + 1
        return np.concatenate([np.zeros(0, int)] + [index * largest + size for index, size in enumerate(sizes)])


def _open(weights: Mapping[str, WeightSpec]) -> dict[str, WeightSpec]:
    return {name: spec for name, spec in weights.items() if spec.bits is None}


def _members(weights: Mapping[str, WeightSpec]) -> dict[tuple[str, str], list[str]]:
    """Names of the open matrices by tie; an untied matrix is alone."""
    members: dict[tuple[str, str], list[str]] = {}
    for name, spec in _open(weights).items():
        members.setdefault(("tie", spec.tie) if spec.tie is not None else ("matrix", name), []).append(name)
    for names in members.values():
        if len({(weights[name].layout.count, weights[name].candidates) for name in names}) > 1:
            raise ValueError(f"tied matrices need equal candidates and numbers of sub-groups: {', '.join(names)}")
    return members


def _checked(name: str, spec: WeightSpec, scores: Scores) -> NDArray[np.float64]:
    if name not in scores:
        raise ValueError(f"there are no scores for {name!r}")
    given = scores[name]
    table = given.detach().cpu().double().numpy() if isinstance(given, Tensor) else np.asarray(given, dtype=float)
    expected = (spec.layout.count, len(spec.candidates))
    if table.shape != expected:
        raise ValueError(f"the scores of {name!r} have the shape {table.shape}, but it has {expected} choices")
    if np.isnan(table).any() or not np.isfinite(table).any(axis=1).all():
        raise ValueError(f"the scores of {name!r} must not be NaN, and each sub-group needs a finite one")
    return table


def _matrix(spec: WeightSpec, bits: tuple[int, ...]) -> MatrixAssignment:
    return MatrixAssignment(bits, keep_of=spec.keep_of, nested=spec.nested)
