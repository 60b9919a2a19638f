"""What the gates expect to use, matrix by matrix, as differentiable tensors."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..core import PrecisionSpace, SubgroupLayout, Usage, WeightSpec, constant
from ..core.liveness import applies, dead_rows
from .exact import kept_share


@dataclass(frozen=True)
class ExpectedMatrix:
    """What one matrix is expected to need, with rows taken as independent of each other.

    Attributes:
        spec: what can be chosen for it.
        usage: what its gate expects.
        keep: probability that each sub-group is kept, `(groups,)`.
        precisions: what `shares` has columns for, ascending, as stored.
        shares: probability of each precision, `(groups, precisions)`.
        rows: probability that each row is not folded away, `(out,)`.
        live_columns: probability that each input column is still read, `(in,)`.
    """

    spec: WeightSpec
    usage: Usage
    keep: Tensor
    precisions: tuple[int, ...]
    shares: Tensor
    rows: Tensor
    live_columns: Tensor

    @property
    def stored_bits(self) -> Tensor:
        """Expected bits of the stored codes of each sub-group, `(groups,)`."""
        return self.keep * self.spec.nested[-1] if self.spec.nested else self.usage.bits

    @property
    def kept(self) -> float | None:
        """Share of the weights that its mask keeps; None without a mask."""
        return kept_share(self.spec)

    @property
    def code_bits(self) -> Tensor:
        """Expected bits of all stored codes, without padding."""
        return (self.stored_bits * self.lines).sum() * self.length * (1.0 if self.kept is None else self.kept)

    @property
    def used_bits(self) -> Tensor:
        """Expected bits of all weights that take part in the product, without a mask."""
        return (self.usage.bits * self.lines).sum() * self.length

    @property
    def used_lines(self) -> Tensor:
        """Expected rows (columns for axis 1) that are not pruned."""
        return (self.keep * self.lines).sum()

    @property
    def lines(self) -> Tensor:
        """Expected rows (columns for axis 1) that each sub-group has while kept, `(groups,)`."""
        return constant(self.spec.layout.sizes, self.keep.dtype, self.keep.device)

    @property
    def length(self) -> Tensor | int:
        """Expected weights that count in one row (axis 0) or column (axis 1)."""
        return self.live_columns.sum() if self.spec.layout.axis == 0 else self.spec.layout.line_length

    @property
    @torch.no_grad()
    def map_bits(self) -> Tensor:
        """Bits of the map per sub-group, from the expected number of precisions in use; without gradient."""
        used = (1 - (1 - self.shares).prod(dim=0)).sum()
        return used.round().clamp(min=1).log2().ceil()


def line_column(layout: SubgroupLayout) -> Tensor:
    """Rows (or columns) of each sub-group as a float64 column, `(groups, 1)`."""
    return constant(layout.sizes, torch.float64, torch.device("cpu")).unsqueeze(1)


def expected_matrices(space: PrecisionSpace, usages: Mapping[str, Usage]) -> dict[str, ExpectedMatrix]:
    """Every matrix of `space`; those without a usage have their fixed bits.

    Raises:
        ValueError: when a matrix has neither a usage nor fixed bits.
    """
    device = next((usage.bits.device for usage in usages.values()), torch.device("cpu"))
    known = {name: usages.get(name) or fixed_usage(name, spec, device) for name, spec in space.weights.items()}
    rows, columns = _live(space, known)
    return {name: _expected(spec, known[name], rows[name], columns[name]) for name, spec in space.weights.items()}


def fixed_usage(name: str, spec: WeightSpec, device: torch.device) -> Usage:
    """The usage of a matrix whose bits are fixed."""
    if spec.bits is None:
        raise ValueError(f"no usage was given for {name!r}, which has no fixed bits")
    bits = constant(spec.bits, torch.float32, device)
    return Usage(bits, (bits > 0).to(bits.dtype))


def _expected(spec: WeightSpec, usage: Usage, rows: Tensor, columns: Tensor) -> ExpectedMatrix:
    if usage.probabilities is None:
        precisions = tuple(sorted({*spec.candidates, *(spec.bits or ())}))
        shares = _neighbours(usage.bits, precisions)
    else:
        precisions, shares = spec.candidates, usage.probabilities
    if spec.nested:
        precisions, shares = (0, spec.nested[-1]), torch.stack([1 - usage.keep, usage.keep], dim=1)
    return ExpectedMatrix(spec, usage, usage.keep, precisions, shares, rows, columns)


def _neighbours(bits: Tensor, precisions: tuple[int, ...]) -> Tensor:
    """Shares of the two precisions around each value of `bits` `(groups,)`: `(groups, precisions)`."""
    grid = constant(precisions, bits.dtype, bits.device)
    progress = ((bits.unsqueeze(1) - grid[:-1]) / grid.diff()).clamp(0, 1)  # (groups, precisions - 1)
    edges = pad(pad(progress, (1, 0), value=1.0), (0, 1))
    return edges[:, :-1] - edges[:, 1:]


def _live(space: PrecisionSpace, usages: Mapping[str, Usage]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Probabilities that rows and columns are alive: the expectation of `core.liveness`."""
    layouts = {name: spec.layout for name, spec in space.weights.items()}
    rows = {name: usages[name].keep.new_ones(layout.shape[0]) for name, layout in layouts.items()}
    columns = {name: usages[name].keep.new_ones(layout.shape[1]) for name, layout in layouts.items()}
    for link in space.links:
        if not applies(link, layouts):
            continue
        pruned = [
            _pruned(layouts[block.name], usages[block.name].keep)[block.start :][: block.count] for block in link.blocks
        ]
        dead = dead_rows(link, pruned)
        for block, probability in zip(link.blocks, dead):
            after = len(rows[block.name]) - block.start - block.count
            rows[block.name] = rows[block.name] * (1 - pad(probability, (block.start, after)))
        if link.consumer is not None:
            columns[link.consumer] = columns[link.consumer] * (1 - dead[0])
    return rows, columns


def _pruned(layout: SubgroupLayout, keep: Tensor) -> Tensor:
    return layout.expand(1 - keep) if layout.axis == 0 else keep.new_zeros(layout.shape[0])
