"""One assignment seen matrix by matrix, with dead rows and columns known."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core import (
    Assignment,
    Link,
    Liveness,
    MaskStorage,
    MatrixAssignment,
    MatrixStorage,
    ModelShape,
    Part,
    PrecisionSpace,
    SubgroupLayout,
    WeightSpec,
)
from ..core.liveness import liveness
from ..core.storage import FLAGS
from ..format import mask_encoding
from ..weights import MASKS


@dataclass(frozen=True, eq=False)
class ExactMatrix:
    """What one matrix of an assignment needs.

    Attributes:
        spec: what could be chosen for it.
        bits: of each sub-group, `(groups,)`.
        alive: which rows are not folded away, and which input columns are still read.
        kept: share of the weights that its mask keeps; None without a mask.
        nested: precisions that the stored codes serve; empty for a plain matrix.
        activation_bits: of the input, where the assignment gives them; else those of the spec hold.
        keep_of: of the assignment, an N:M pattern in place of that of the spec.
    """

    spec: WeightSpec
    bits: NDArray[np.integer]
    alive: Liveness
    kept: float | None
    nested: tuple[int, ...]
    activation_bits: int | None = None
    keep_of: tuple[int, int] | None = None

    @property
    def layout(self) -> SubgroupLayout:
        """Its sub-groups."""
        return self.spec.layout

    @property
    def rows(self) -> Tensor:
        """1 for each row whose output is not folded away, else 0: `(out,)` float64."""
        return self.alive.rows.double()

    @cached_property
    def live_columns(self) -> int:
        """Number of input columns that are still read."""
        return int(self.alive.columns.sum())

    @cached_property
    def groups(self) -> dict[int, int]:
        """Precision to number of sub-groups, ascending, 0 included; only precisions in use."""
        return {bits: count for bits, count in enumerate(np.bincount(self.bits).tolist()) if count}

    @cached_property
    def lines(self) -> dict[int, int]:
        """Precision to number of rows (columns for axis 1), as `groups`."""
        sizes = _sizes(self.layout)
        if len(sizes) == 1:
            return {bits: count * int(sizes[0]) for bits, count in self.groups.items()}
        counts = np.bincount(self.bits, weights=sizes)
        return {bits: int(counts[bits]) for bits in self.groups}

    @property
    def stored_lines(self) -> dict[int, int]:
        """`lines` at the bits of the stored codes: nested codes are stored once, at their highest precision."""
        return _stored_counts(self.lines, self.nested)

    @property
    def length(self) -> int:
        """Weights that count in one row (axis 0) or column (axis 1)."""
        return self.live_columns if self.layout.axis == 0 else self.layout.line_length

    @property
    def code_bits(self) -> float:
        """Bits of all stored codes, without padding."""
        lines = sum(bits * count for bits, count in self.stored_lines.items())
        return lines * self.length * (1.0 if self.kept is None else self.kept)

    @property
    def used_bits(self) -> float:
        """Bits of all weights that take part in the product, without a mask."""
        return self.length * sum(bits * count for bits, count in self.lines.items())

    @property
    def used_lines(self) -> float:
        """Rows (columns for axis 1) that are not pruned."""
        return sum(count for bits, count in self.lines.items() if bits)

    def storage(self) -> MatrixStorage:
        """The packed form; with a mask, the number of kept codes is its share of the stored lines, rounded up, and runs
        are as long as those of weights that are kept anywhere with the same probability."""
        spec = self.spec
        groups, lines = _stored_counts(self.groups, self.nested), self.stored_lines
        used = [bits for bits in lines if bits]
        return MatrixStorage(
            self.layout,
            {bits: groups[bits] for bits in used},
            {bits: lines[bits] for bits in used},
            {bits: spec.floats[bits] for bits in used},
            encoding=spec.quantizer,
            length=self.length,
            mask=self._mask({bits: lines[bits] for bits in used}),
            bias=int(self.alive.rows.sum()) if spec.bias else None,
            nested=self.nested,
            scale_dtype=spec.scale_dtype,
            float_dtype=spec.float_dtype,
            affine=spec.affine,
            rank=spec.rank,
        )

    def _mask(self, lines: Mapping[int, int]) -> MaskStorage | None:
        if self.kept is None or not lines:
            return None
        kept = {bits: ceil(count * self.length * self.kept) for bits, count in lines.items()}
        found = []
        for part in self._mask_encodings():
            encoding = mask_encoding(part)
            sizes = {bits: encoding.size(lines[bits], self.length, kept[bits]) for bits in lines}
            found.append(MaskStorage(kept, sizes, part))
        return min(found, key=lambda one: sum(one.sizes.values()))

    def _mask_encodings(self) -> Iterable[Part]:
        """Those that can store the mask, some of whose blocks may have lost columns."""
        for part in mask_encodings(self.spec, self.keep_of):
            if part.name != "n:m" or whole_blocks(self.alive.columns, part.options["block"]):
                yield part


def whole_blocks(live: Tensor, block: int) -> bool:
    """Whether of every `block` consecutive columns, `live` `(in,)` bool, all are stored or none."""
    if len(live) % block:
        return False
    blocks = live.view(-1, block)
    return bool((blocks.all(1) == blocks.any(1)).all())


@lru_cache(maxsize=4096)
def _sizes(layout: SubgroupLayout) -> NDArray[np.float64]:
    """Lines of each sub-group `(groups,)`, or of any `(1,)` where all are equal."""
    sizes = np.array(layout.sizes, dtype=float)
    return sizes[:1] if (sizes == sizes[:1]).all() else sizes


def _stored_counts(counts: Mapping[int, int], nested: tuple[int, ...]) -> dict[int, int]:
    """Counts by precision, those of nested precisions together."""
    if not nested:
        return dict(counts)
    together: dict[int, int] = {}
    for bits, count in counts.items():
        together[stored(bits, nested)] = together.get(stored(bits, nested), 0) + count
    return together


def stored(bits: int, nested: tuple[int, ...]) -> int:
    """Bits at which codes are stored that are used at `bits`."""
    return nested[-1] if nested and bits else bits


def kept_share(spec: WeightSpec, keep_of: tuple[int, int] | None = None) -> float | None:
    """Share of single weights that a mask keeps, by `keep_of` or else by the spec; None where all are."""
    share = MASKS[spec.mask].share(**spec.mask_options) if spec.mask else 1.0
    share = share if keep_of is None else keep_of[0] / keep_of[1]
    return share if share < 1 else None


def mask_encodings(spec: WeightSpec, keep_of: tuple[int, int] | None = None) -> tuple[Part, ...]:
    """How a matrix's mask may be stored, as far as its spec and `keep_of` say; blocks are of rows."""
    name, options = spec.mask, dict(spec.mask_options)
    if keep_of is not None:
        name, options = "n:m", {"kept": keep_of[0], "block": keep_of[1], "encoding": options.get("encoding")}
    found = (FLAGS,) if name is None else MASKS[name].encodings(**options)
    return tuple(part for part in found if part.name != "n:m" or spec.layout.axis == 0)


def mask_rate(spec: WeightSpec) -> float:
    """Bits that the mask takes for each weight of a stored line; 0 without a mask."""
    share = kept_share(spec)
    return 0.0 if share is None else min(mask_encoding(part).rate(share) for part in mask_encodings(spec))


def layer_share(space: PrecisionSpace, matrices: Mapping[str, ExactMatrix]) -> float:
    """Share of the encoder's matrices that are still there, which is the share of its layers."""
    names = [name for name, spec in space.weights.items() if spec.role == "encoder"]
    return sum(name in matrices for name in names) / max(1, len(names))


def exact_matrices(space: PrecisionSpace, assignment: Assignment) -> dict[str, ExactMatrix]:
    """Every matrix of `space` as `assignment` has it.

    Where the assignment keeps only some layers, the matrices of the others are those that it does not name.

    Raises:
        ValueError: when a matrix is missing or has another number of sub-groups, or for another hidden size, or other
            heads or rows.
    """
    _check_widths(assignment.shape)
    found = ((name, _chosen(name, spec, assignment)) for name, spec in space.weights.items())
    chosen = {name: matrix for name, matrix in found if matrix is not None}
    layouts = {name: space.weights[name].layout for name in chosen}
    bits = {name: np.frombuffer(bytes(matrix.bits), np.uint8) for name, matrix in chosen.items()}
    alive = _alive(space.links, layouts, bits)
    return {
        name: ExactMatrix(
            space.weights[name],
            bits[name],
            alive[name],
            kept_share(space.weights[name], matrix.keep_of),
            matrix.nested or space.weights[name].nested,
            assignment.activation_bits.get(name),
            matrix.keep_of,
        )
        for name, matrix in chosen.items()
    }


def matrices_with(
    space: PrecisionSpace, bits: Mapping[str, NDArray[np.integer]], input_bits: Mapping[str, int] | None = None
) -> dict[str, ExactMatrix]:
    """Every matrix of `space` at `bits`, `(groups,)` each, its input at `input_bits`, and otherwise as its spec says.

    Equal to `exact_matrices` of that assignment, without the time that it takes to make one.
    """
    alive = _alive(space.links, {name: spec.layout for name, spec in space.weights.items()}, bits)
    inputs = input_bits or {}
    return {
        name: ExactMatrix(spec, bits[name], alive[name], kept_share(spec), spec.nested, inputs.get(name))
        for name, spec in space.weights.items()
    }


def _alive(
    links: Sequence[Link], layouts: Mapping[str, SubgroupLayout], bits: Mapping[str, NDArray[np.integer]]
) -> dict[str, Liveness]:
    """`liveness` of every matrix; those that no link with pruned rows names are alive as a whole."""
    pruned = {name for name, each in bits.items() if not each.all()}
    links = [link for link in links if link.blocks[-1].name in pruned]  # of every kind, only these can fold anything
    named = {name for link in links for name in (*(block.name for block in link.blocks), link.consumer)}
    linked = {name: layout for name, layout in layouts.items() if name in named}
    alive = liveness(links, linked, {name: bits[name] for name in linked})
    return {name: alive[name] if name in linked else _all_alive(layout.shape) for name, layout in layouts.items()}


@lru_cache(maxsize=4096)
def _all_alive(shape: tuple[int, int]) -> Liveness:
    return Liveness(*(torch.ones(count, dtype=torch.bool) for count in shape))


def _check_widths(shape: ModelShape | None) -> None:
    if shape is not None and shape != ModelShape(shape.layers):
        raise ValueError("the cost of another hidden size, or of other heads or rows, is that of a model of that shape")


def _chosen(name: str, spec: WeightSpec, assignment: Assignment) -> MatrixAssignment | None:
    if name in assignment.matrices:
        matrix, count = assignment.matrices[name], spec.layout.count
        if len(matrix.bits) != count:
            raise ValueError(f"{name!r} has {count} sub-groups, but the assignment gives {len(matrix.bits)} bits")
        return matrix
    if assignment.shape is not None:
        return None
    if spec.bits is None:
        raise ValueError(f"the assignment says nothing about {name!r}, which has no fixed bits")
    return MatrixAssignment(spec.bits)
