"""What the gates expect to use, matrix by matrix, as differentiable tensors."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..core import Link, PrecisionSpace, RowBlock, SubgroupLayout, Usage, WeightSpec, constant
from ..core.liveness import applies, dead_rows
from .exact import kept_share


@dataclass(frozen=True)
class ExpectedMatrix:
    """What one matrix is expected to need, with rows taken as independent of each other; or what several of one spec
    do, in tensors with a leading axis for them, `(matrices, groups)` and so on.

    Attributes:
        spec: what can be chosen for it.
        usage: what its gate expects.
        keep: probability that each sub-group is kept, `(groups,)`.
        precisions: what `shares` has columns for, ascending, as stored.
        shares: probability of each precision, `(groups, precisions)`.
        rows: probability that each row is not folded away, `(out,)`.
        live_columns: probability that each input column is still read, `(in,)`.
        reads_all: whether that is one for every column, whatever is chosen.
    """

    spec: WeightSpec
    usage: Usage
    keep: Tensor
    precisions: tuple[int, ...]
    shares: Tensor
    rows: Tensor
    live_columns: Tensor
    reads_all: bool = False

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
        bits = (self.stored_bits * self.lines).sum(-1) * self.length
        return bits if self.kept is None else bits * self.kept

    @property
    def used_bits(self) -> Tensor:
        """Expected bits of all weights that take part in the product, without a mask."""
        return (self.usage.bits * self.lines).sum(-1) * self.length

    @property
    def used_lines(self) -> Tensor:
        """Expected rows (columns for axis 1) that are not pruned."""
        return (self.keep * self.lines).sum(-1)

    @property
    def lines(self) -> Tensor:
        """Expected rows (columns for axis 1) that each sub-group has while kept, `(groups,)`."""
        return constant(self.spec.layout.sizes, self.keep.dtype, self.keep.device)

    @property
    def length(self) -> Tensor | int:
        """Expected weights that count in one row (axis 0) or column (axis 1)."""
        whole = self.reads_all or self.spec.layout.axis != 0
        return self.spec.layout.line_length if whole else self.live_columns.sum(-1)

    @property
    @torch.no_grad()
    def map_bits(self) -> Tensor:
        """Bits of the map per sub-group, from the expected number of precisions in use; without gradient."""
        used = (1 - (1 - self.shares).prod(dim=-2)).sum(-1)
        return used.round().clamp(min=1).log2().ceil()


def line_column(layout: SubgroupLayout) -> Tensor:
    """Rows (or columns) of each sub-group as a float64 column, `(groups, 1)`."""
    return constant(layout.sizes, torch.float64, torch.device("cpu")).unsqueeze(1)


def expected_matrices(
    space: PrecisionSpace, usages: Mapping[str, Usage], rows: bool = True
) -> dict[str, ExpectedMatrix]:
    """Every matrix of `space`; those without a usage have their fixed bits.

    Args:
        rows: whether rows that are folded away are asked for; else all count as there, which takes less.

    Raises:
        ValueError: when a matrix has neither a usage nor fixed bits.
    """
    device = next((usage.bits.device for usage in usages.values()), torch.device("cpu"))
    known = {name: usages.get(name) or fixed_usage(name, spec, device) for name, spec in space.weights.items()}
    heights, widths = _live(space, known, rows)
    return {
        name: _expected(spec, known[name], heights.get(name), widths.get(name)) for name, spec in space.weights.items()
    }


def alike(matrices: Iterable[ExpectedMatrix]) -> list[ExpectedMatrix]:
    """Matrices of one spec put together, so that a model of many layers takes no more calls than one of few; those
    whose input is open stay alone."""
    return [group[0] if len(group) == 1 else _together(group) for group in grouped(matrices)]


def grouped(matrices: Iterable[ExpectedMatrix]) -> list[list[ExpectedMatrix]]:
    """Matrices of one spec; those whose input is open are alone."""
    groups: list[list[ExpectedMatrix]] = []
    for matrix in matrices:
        same = (group for group in groups if _are_alike(group[0], matrix))
        group = next(same, None)
        groups.append([matrix]) if group is None else group.append(matrix)
    return groups


def _are_alike(one: ExpectedMatrix, other: ExpectedMatrix) -> bool:
    opened = one.usage.activation_bits is not None or other.usage.activation_bits is not None
    kinds = one.usage.probabilities is None, other.usage.probabilities is None
    same = one.precisions == other.precisions and one.reads_all == other.reads_all and one.spec == other.spec
    return not opened and kinds[0] == kinds[1] and same


def _together(group: list[ExpectedMatrix]) -> ExpectedMatrix:
    bits = stacked(one.usage.bits for one in group)
    keep = stacked(one.keep for one in group)
    shares = stacked(one.shares for one in group)
    chances = None if group[0].usage.probabilities is None else shares
    if any(one.usage.probabilities is not one.shares for one in group) and chances is not None:
        chances = stacked(one.usage.probabilities for one in group)
    return ExpectedMatrix(
        group[0].spec,
        Usage(bits, keep, chances),
        keep,
        group[0].precisions,
        shares,
        stacked(one.rows for one in group),
        stacked(one.live_columns for one in group),
        group[0].reads_all,
    )


def stacked(tensors: Iterable[Tensor]) -> Tensor:
    """`(tensors, ...)`; one that is the same in all is not copied."""
    tensors = [*tensors]
    first = tensors[0]
    return first.expand(len(tensors), *first.shape) if all(one is first for one in tensors) else torch.stack(tensors)


def fixed_usage(name: str, spec: WeightSpec, device: torch.device) -> Usage:
    """The usage of a matrix whose bits are fixed."""
    if spec.bits is None:
        raise ValueError(f"no usage was given for {name!r}, which has no fixed bits")
    bits = constant(spec.bits, torch.float32, device)
    return Usage(bits, (bits > 0).to(bits.dtype))


def _expected(spec: WeightSpec, usage: Usage, rows: Tensor | None, columns: Tensor | None) -> ExpectedMatrix:
    """Rows and columns are None where none can be lost."""
    if usage.probabilities is None:
        precisions = tuple(sorted({*spec.candidates, *(spec.bits or ())}))
        shares = _neighbours(usage.bits, precisions)
    else:
        precisions, shares = spec.candidates, usage.probabilities
    if spec.nested:
        precisions, shares = (0, spec.nested[-1]), torch.stack([1 - usage.keep, usage.keep], dim=1)
    reads_all, (height, width) = columns is None, spec.layout.shape
    rows = _ones(height, usage.keep) if rows is None else rows
    columns = _ones(width, usage.keep) if columns is None else columns
    return ExpectedMatrix(spec, usage, usage.keep, precisions, shares, rows, columns, reads_all)


def _neighbours(bits: Tensor, precisions: tuple[int, ...]) -> Tensor:
    """Shares of the two precisions around each value of `bits` `(groups,)`: `(groups, precisions)`."""
    grid = constant(precisions, bits.dtype, bits.device)
    progress = ((bits.unsqueeze(1) - grid[:-1]) / grid.diff()).clamp(0, 1)  # (groups, precisions - 1)
    edges = pad(pad(progress, (1, 0), value=1.0), (0, 1))
    return edges[:, :-1] - edges[:, 1:]


def _live(
    space: PrecisionSpace, usages: Mapping[str, Usage], all_rows: bool = True
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Probabilities that rows and columns are alive, of matrices that can lose some: the expectation of
    `core.liveness`. Links of layers that are alike are followed together, and those of which nothing can be pruned not
    at all; without `all_rows` those that no columns hang on neither."""
    layouts = {name: spec.layout for name, spec in space.weights.items()}
    rows: dict[str, Tensor] = {}
    columns: dict[str, Tensor] = {}
    groups: dict[tuple, list[Link]] = {}
    for link in space.links:
        asked = applies(link, layouts) and (all_rows or link.consumer is not None)
        if asked and any(_prunes(space.weights[block.name]) for block in link.blocks):
            alike = all(usages[block.name].prefix for block in link.blocks)
            groups.setdefault((_kind_of(link, layouts), alike), []).append(link)
    for (_, alike), (first, *others) in groups.items():
        blocks = zip(*(link.blocks for link in (first, *others)))
        places = [*blocks]  # each the blocks at one place of all links
        dead = dead_rows(first, [_pruned(several, layouts, usages) for several in places], alike)  # (links, count)
        for several, probability in zip(places, dead):
            before = several[0].start
            after = layouts[several[0].name].shape[0] - before - several[0].count
            alive = 1 - (pad(probability, (before, after)) if before or after else probability)
            _multiply(rows, [block.name for block in several], alive)
            if probability is dead[0]:
                read = alive if alive.shape == probability.shape else 1 - probability
        if first.consumer is not None:
            _multiply(columns, [link.consumer for link in (first, *others)], read)
    return rows, columns


def _prunes(spec: WeightSpec) -> bool:
    return 0 in spec.candidates or 0 in (spec.bits or ())


def _kind_of(link: Link, layouts: Mapping[str, SubgroupLayout]) -> tuple:
    """What links have in common that are followed together."""
    blocks = tuple((block.start, block.count, layouts[block.name]) for block in link.blocks)
    return link.kind, blocks, link.consumer is None, link.heads, link.rotary, link.paired


def _pruned(blocks: Sequence[RowBlock], layouts: Mapping[str, SubgroupLayout], usages: Mapping[str, Usage]) -> Tensor:
    """Probability that each row of some blocks of one layout is pruned, `(blocks, count)`."""
    layout, first = layouts[blocks[0].name], blocks[0]
    keep = torch.stack([usages[block.name].keep for block in blocks])
    if layout.axis == 1:
        return keep.new_zeros(len(blocks), first.count)
    return (1 - keep).index_select(1, layout.index(keep.device)[first.start :][: first.count])


def _multiply(known: dict[str, Tensor], names: Sequence[str], factors: Tensor) -> None:
    for name, factor in zip(names, factors.unbind()):
        known[name] = known[name] * factor if name in known else factor


def _ones(count: int, like: Tensor) -> Tensor:
    return _made_ones(count, like.dtype, like.device)


@lru_cache(maxsize=256)
def _made_ones(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Made once, for it is needed in every step; not to be written to."""
    with torch.inference_mode(False):
        return torch.ones(count, dtype=dtype, device=device)
