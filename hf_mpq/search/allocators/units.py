"""The open choices of a precision space as arrays: one unit for each sub-group and each input, or set of tied ones."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...core import Assignment, MatrixAssignment, PrecisionSpace, WeightSpec
from ...cost import CostModel
from ...cost.exact import ExactMatrix, matrices_with
from .base import Scores
from .members import check_patterns, checked, input_bits, members_of, owners_of
from .unit_prices import input_prices, weight_prices


class Units:
    """Every unit of `space` that is still open, with its score; units of one matrix (or tie) lie together, and units of
    inputs behind those of weights.

    Inputs without scores are no units: they have the highest of their candidates.

    Attributes:
        members: names of the choices of each block of units: several where they are tied. An input is named by
            `input_of` its matrix.
        score: `(units, choices)`; infinite where a unit has fewer candidates.
        kinds: number of the kind of each unit, `(units,)`; units of one kind are equally large parts of one matrix.

    Raises:
        ValueError: when scores are missing or do not fit, when tied matrices differ in candidates or sub-groups, or
            while N:M patterns are open.
    """

    def __init__(self, space: PrecisionSpace, scores: Scores):
        check_patterns(space)
        self.space = space
        self._owners = owners_of(space, scores)
        self._choices = {name: one for name, one in space.open_choices.items() if name in self._owners}
        self.members = members_of(space.weights, self._choices, self._owners)
        self._first = {key: self._choices[names[0]] for key, names in self.members.items()}
        self._width = max((len(one.candidates) for one in self._first.values()), default=1)
        self.score = self._join({name: checked(name, one, scores) for name, one in self._choices.items()})
        self.kinds = self._kinds()

    @cached_property
    def candidates(self) -> NDArray[np.float64]:
        """Precision of each choice, `(units, choices)`; infinite where a unit has fewer candidates."""
        tables = {
            name: np.tile(np.array(one.candidates, float), (one.groups, 1)) for name, one in self._choices.items()
        }
        return self._join({name: table / self._tied(name) for name, table in tables.items()})

    @cached_property
    def sizes(self) -> list[int]:
        """Number of units of each matrix or input, or set of tied ones."""
        return [one.groups for one in self._first.values()]

    @cached_property
    def names(self) -> list[str]:
        """First matrix, or input, of each unit, `units` names."""
        return [names[0] for names, size in zip(self.members.values(), self.sizes) for _ in range(size)]

    @cached_property
    def of_inputs(self) -> NDArray[np.bool_]:
        """Which units are inputs, `(units,)`."""
        return np.array([name not in self.space.weights for name in self.names], dtype=bool)

    def candidates_of(self, name: str) -> tuple[int, ...]:
        """What a matrix, or an input, chooses from."""
        return self._choices[name].candidates

    def _tied(self, name: str) -> int:
        return next(len(names) for names in self.members.values() if name in names)

    def prices(
        self,
        cost: CostModel,
        around: Mapping[str, ExactMatrix] | None = None,
        readers: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> NDArray[np.float64]:
        """What each choice adds to `cost`: `(units, choices)`.

        Args:
            cost: what is counted.
            around: an assignment, for the input columns that are still read, and for what weights and inputs are
                multiplied with; None means all, and middle candidates.
            readers: what else keeping each sub-group costs, matrix name to `(groups,)`.
        """
        found = around or {}
        tables = {
            name: (weight_prices if name == owner else input_prices)(cost, self.space, owner, found.get(owner))
            for name, owner in self._owners.items()
        }
        for name, extra in (readers or {}).items():
            tables[name] = tables[name] + np.outer(extra, np.array(self.space.weights[name].candidates) > 0)
        return self._join(tables)

    @cached_property
    def blocks(self) -> list[tuple[list[str], slice]]:
        """Names of the choices of each block, with where its units lie."""
        ends = np.cumsum(self.sizes, dtype=int).tolist()
        return [(names, slice(end - size, end)) for names, size, end in zip(self.members.values(), self.sizes, ends)]

    def bits(self, choice: NDArray[np.int64]) -> dict[str, NDArray[np.uint8]]:
        """Bits of the sub-groups of every matrix, `(groups,)` each; `choice` `(units,)` where they are open."""
        return self._fixed_bits | {
            name: bits for name, bits in self._chosen(choice).items() if name in self.space.weights
        }

    def inputs(self, choice: NDArray[np.int64]) -> dict[str, int]:
        """Bits of every quantized input, by the name of its matrix."""
        return input_bits(self.space.weights, self._chosen(choice))

    def _chosen(self, choice: NDArray[np.int64]) -> dict[str, NDArray[np.uint8]]:
        chosen: dict[str, NDArray[np.uint8]] = {}
        for (names, units), one in zip(self.blocks, self._first.values()):
            chosen |= dict.fromkeys(names, np.array(one.candidates, np.uint8)[choice[units]])
        return chosen

    def matrices(self, choice: NDArray[np.int64]) -> dict[str, ExactMatrix]:
        """The assignment that has `choice`, matrix by matrix."""
        return matrices_with(self.space, self.bits(choice), self.inputs(choice) if self.moving_inputs else {})

    def assignment(self, choice: NDArray[np.int64]) -> Assignment:
        """The whole assignment that has `choice` `(units,)` and the fixed bits of all other matrices."""
        bits = self.bits(choice)
        matrices = {name: _matrix(spec, tuple(bits[name].tolist())) for name, spec in self.space.weights.items()}
        return Assignment(matrices, self.inputs(choice))

    @cached_property
    def moving_inputs(self) -> bool:
        """Whether bits of some input are chosen, or follow what is."""
        return any(spec.activation is not None and spec.activation.candidates for spec in self.space.weights.values())

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
        layouts = [self.space.weights.get(names[0]) for names in self.members.values()]
        sizes = [np.ones(1, int) if spec is None else np.array(spec.layout.sizes) for spec in layouts]
        largest = max((int(size.max()) for size in sizes), default=0) + 1
        return np.concatenate([np.zeros(0, int)] + [index * largest + size for index, size in enumerate(sizes)])


def _matrix(spec: WeightSpec, bits: tuple[int, ...]) -> MatrixAssignment:
    return MatrixAssignment(bits, keep_of=spec.keep_of, nested=spec.nested)
