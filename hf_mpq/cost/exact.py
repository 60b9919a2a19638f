"""One assignment seen matrix by matrix, with dead rows and columns known."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

from torch import Tensor

from ..core import (
    Assignment,
    Link,
    Liveness,
    MatrixAssignment,
    MatrixStorage,
    PrecisionSpace,
    SubgroupLayout,
    WeightSpec,
    liveness,
)


@dataclass(frozen=True)
class ExactMatrix:
    """What one matrix of an assignment needs.

    Attributes:
        spec: what could be chosen for it.
        layout: its sub-groups, in the shape that the assignment gives it.
        bits: of each sub-group, `(groups,)`.
        alive: which rows are not folded away, and which input columns are still read.
        kept: share of the weights that its mask keeps; None without a mask.
        nested: precisions that the stored codes serve; empty for a plain matrix.
    """

    spec: WeightSpec
    layout: SubgroupLayout
    bits: tuple[int, ...]
    alive: Liveness
    kept: float | None
    nested: tuple[int, ...]

    @property
    def rows(self) -> Tensor:
        """1 for each row whose output is not folded away, else 0: `(out,)` float64."""
        return self.alive.rows.double()

    @property
    def live_columns(self) -> int:
        """Number of input columns that are still read."""
        return int(self.alive.columns.sum())

    @property
    def stored_bits(self) -> tuple[int, ...]:
        """Bits of the stored codes: nested codes are stored once, at their highest precision."""
        return tuple(stored(bits, self.nested) for bits in self.bits) if self.nested else self.bits

    @property
    def length(self) -> int:
        """Weights that count in one row (axis 0) or column (axis 1)."""
        return self.live_columns if self.layout.axis == 0 else self.layout.line_length

    @property
    def code_bits(self) -> float:
        """Bits of all stored codes, without padding."""
        lines = sum(bits * size for bits, size in zip(self.stored_bits, self.layout.sizes))
        return lines * self.length * (1.0 if self.kept is None else self.kept)

    @property
    def used_bits(self) -> float:
        """Bits of all weights that take part in the product, without a mask."""
        return self.length * sum(bits * size for bits, size in zip(self.bits, self.layout.sizes))

    @property
    def used_lines(self) -> float:
        """Rows (columns for axis 1) that are not pruned."""
        return sum(size for bits, size in zip(self.bits, self.layout.sizes) if bits)

    def storage(self) -> MatrixStorage:
        """The packed form; with a mask, the number of kept codes is its share of the stored lines, rounded up."""
        spec = self.spec
        bias = int(self.alive.rows.sum()) if spec.bias else None
        types = {"scale_dtype": spec.scale_dtype, "float_dtype": spec.float_dtype}
        packed = MatrixStorage.of(self.layout, self.stored_bits, spec.floats, encoding=spec.quantizer,
                                  length=self.length, bias=bias, nested=self.nested, **types)  # fmt: skip
        if self.kept is None:
            return packed
        return packed.with_changes(
            kept={bits: ceil(lines * self.length * self.kept) for bits, lines in packed.lines.items()}
        )


def stored(bits: int, nested: tuple[int, ...]) -> int:
    """Bits at which codes are stored that are used at `bits`."""
    return nested[-1] if nested and bits else bits


def kept_share(spec: WeightSpec, keep_of: tuple[int, int] | None = None) -> float | None:
    """Share of single weights that a mask keeps, by `keep_of` or else by the spec; None without a mask."""
    options = spec.mask_options
    if keep_of is not None:
        return keep_of[0] / keep_of[1]
    if spec.mask == "n:m":
        return options.get("kept", 2) / options.get("block", 4)
    return options.get("density", 0.5) if spec.mask == "element" else None


def layer_share(space: PrecisionSpace, matrices: Mapping[str, ExactMatrix]) -> float:
    """Share of the encoder's matrices that are still there, which is the share of its layers."""
    names = [name for name, spec in space.weights.items() if spec.role == "encoder"]
    return sum(name in matrices for name in names) / max(1, len(names))


def exact_matrices(space: PrecisionSpace, assignment: Assignment) -> dict[str, ExactMatrix]:
    """Every matrix of `space` as `assignment` has it.

    Matrices of dropped layers are those that an assignment with `layers` does not name. Links that touch a matrix whose
    shape was changed fold nothing.

    Raises:
        ValueError: when a matrix is missing or has another number of sub-groups.
    """
    chosen = {name: _chosen(name, spec, assignment) for name, spec in space.weights.items()}
    chosen = {name: matrix for name, matrix in chosen.items() if matrix is not None}
    layouts = {name: _layout(name, space.weights[name], matrix) for name, matrix in chosen.items()}
    links = [link for link in space.links if _unchanged(link, layouts, space.weights)]
    alive = liveness(links, layouts, {name: matrix.bits for name, matrix in chosen.items()})
    return {
        name: ExactMatrix(
            space.weights[name], layouts[name], matrix.bits, alive[name],
            kept_share(space.weights[name], matrix.keep_of), matrix.nested or space.weights[name].nested,
        )
        for name, matrix in chosen.items()
    }  # fmt: skip


def _chosen(name: str, spec: WeightSpec, assignment: Assignment) -> MatrixAssignment | None:
    if name in assignment.matrices:
        return assignment.matrices[name]
    if assignment.layers is not None:
        return None
    if spec.bits is None:
        raise ValueError(f"the assignment says nothing about {name!r}, which has no fixed bits")
    return MatrixAssignment(spec.bits)


def _layout(name: str, spec: WeightSpec, matrix: MatrixAssignment) -> SubgroupLayout:
    layout = replace(spec.layout, shape=matrix.shape) if matrix.shape else spec.layout
    if len(matrix.bits) != layout.count:
        raise ValueError(f"{name!r} has {layout.count} sub-groups, but the assignment gives {len(matrix.bits)} bits")
    return layout


def _unchanged(link: Link, layouts: Mapping[str, SubgroupLayout], weights: Mapping[str, WeightSpec]) -> bool:
    names = [block.name for block in link.blocks] + ([link.consumer] if link.consumer else [])
    return all(name not in layouts or layouts[name].shape == weights[name].layout.shape for name in names)
