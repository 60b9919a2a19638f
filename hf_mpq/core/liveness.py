"""Which rows and columns are alive once pruned rows are folded away: one rule for folding, storage and cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from .layout import SubgroupLayout
from .space import Link

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bits: TypeAlias = Sequence[int] | NDArray[np.integer]


@dataclass(frozen=True)
class Liveness:
    """Masks of one matrix: `rows` `(out,)` whose output is not folded away, `columns` `(in,)` that are still read."""

    rows: Tensor
    columns: Tensor


def kept_rows(layout: SubgroupLayout, bits: "Bits") -> Tensor:
    """Rows with more than 0 bits, `(out,)` bool; pruned column blocks leave every row kept."""
    if layout.axis == 1:
        return torch.ones(layout.shape[0], dtype=torch.bool)
    return layout.expand(torch.tensor(bits)) > 0


def dead_rows(link: Link, pruned: Sequence[Tensor], alike: bool = False) -> tuple[Tensor, ...]:
    """Rows of each block of `link` that can be folded away, given which rows are pruned, each `(..., count)`.

    Works on bools and, rows taken as independent, on probabilities in [0, 1]. Where rows at one place of all blocks are
    pruned `alike`, and so not independently, their probability is that of either.

    Pointwise and value rows go alone. A gated pair goes together. A key row goes alone, because softmax ignores what is
    constant over the keys; a query row only with its key row. Where positions are projected by the same weights both go
    or neither; rotary rows go in the pairs that are rotated together, query and key alike.
    """
    if link.kind in ("pointwise", "value"):
        return tuple(pruned)
    both = pruned[0] if alike else pruned[0] * pruned[1]
    if link.kind == "gated" or link.paired:
        return both, both
    if link.rotary:
        halves = both.unflatten(-1, (link.heads or 1, 2, -1))
        pairs = (halves[..., :1, :] * halves[..., 1:, :]).expand_as(halves).flatten(-3)
        return pairs, pairs
    return both, pruned[1]


def liveness(
    links: Sequence[Link], layouts: Mapping[str, SubgroupLayout], bits: Mapping[str, "Bits"]
) -> dict[str, Liveness]:
    """Follow every link from pruned rows to the columns that read them.

    Args:
        links: producers and consumers; a link that names a matrix outside `layouts` folds nothing.
        layouts: of each matrix.
        bits: of each matrix' sub-groups, 0 = pruned.
    """
    kept = {name: kept_rows(layout, bits[name]) for name, layout in layouts.items()}
    alive = {
        name: Liveness(torch.ones(layout.shape[0], dtype=torch.bool), torch.ones(layout.shape[1], dtype=torch.bool))
        for name, layout in layouts.items()
    }
    for link in links:
        if not applies(link, layouts):
            continue
        pruned = [~kept[block.name][block.start : block.start + block.count] for block in link.blocks]
        dead = dead_rows(link, pruned)
        for block, rows in zip(link.blocks, dead):
            alive[block.name].rows[block.start : block.start + block.count] &= ~rows
        if link.consumer is not None:
            alive[link.consumer].columns[:] &= ~dead[0]
    return alive


def applies(link: Link, layouts: Mapping[str, SubgroupLayout]) -> bool:
    """Whether `link` folds anything: all its matrices are in `layouts`, and the consumer is not cut by columns."""
    names = [block.name for block in link.blocks] + ([link.consumer] if link.consumer else [])
    return all(name in layouts for name in names) and (link.consumer is None or layouts[link.consumer].axis == 0)


def scores_of(value: Link, links: Sequence[Link]) -> Link | None:
    """The link of the queries and keys of the layer that a value link belongs to, if there is one."""
    layer = value.blocks[0].name.rpartition(".")[0]
    return next(
        (link for link in links if link.kind == "scores" and link.blocks[1].name.rpartition(".")[0] == layer), None
    )
