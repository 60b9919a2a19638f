"""What can be taken out of a model so that it runs faster: feed-forward rows, and whole heads."""

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from ..core import Link, PrecisionSpace, RowBlock, SubgroupLayout, applies, scores_of
from .exact import ExactMatrix
from .expectation import ExpectedMatrix


class FeedForwardRows:
    """Rows of one layer that its second feed-forward matrix reads.

    Attributes:
        blocks: rows that must be pruned together for one to go.
        reader: the matrix whose columns tell how many are left.
        count: of the unpruned layer.
        calls: times that a forward pass runs the layer.
    """

    def __init__(self, space: PrecisionSpace, link: Link):
        self.blocks, self.reader, self.count = link.blocks, link.consumer, link.blocks[0].count
        self.calls = space.weights[link.consumer].calls

    def left(self, matrices: Mapping[str, ExactMatrix]) -> float:
        """How many are left."""
        return float(matrices[self.reader].live_columns)

    def expected_left(self, matrices: Mapping[str, ExpectedMatrix]) -> Tensor:
        """How many are expected to be left, differentiable."""
        return matrices[self.reader].live_columns.sum()

    def parts(self, name: str, layout: SubgroupLayout) -> Tensor:
        """How many of them each sub-group of the matrix `name` stands for, `(groups,)`; what must be pruned together
        shares them evenly."""
        return rows_of_groups(name, layout, self.blocks) / len(self.blocks)


class Heads:
    """Heads of one layer: one goes when its query, key and value rows are all pruned."""

    def __init__(self, space: PrecisionSpace, value: Link, scores: Link):
        self.blocks, self.reader, self.count = (*scores.blocks, *value.blocks), value.consumer, value.heads
        self.calls = space.weights[value.consumer].calls

    def left(self, matrices: Mapping[str, ExactMatrix]) -> float:
        """As of `FeedForwardRows`."""
        alive = [_by_head(matrices[block.name].alive.rows, block, self.count).any(1) for block in self.blocks]
        return float(torch.stack(alive).any(0).sum())

    def expected_left(self, matrices: Mapping[str, ExpectedMatrix]) -> Tensor:
        """As of `FeedForwardRows`, sub-groups taken as independent: a head is there unless all of its are pruned."""
        gone = torch.stack([self._all_pruned(matrices[block.name], block) for block in self.blocks]).prod(0)  # (heads,)
        return (1 - gone).sum()

    def parts(self, name: str, layout: SubgroupLayout) -> Tensor:
        """As of `FeedForwardRows`."""
        per_head = sum(block.count for block in self.blocks) / self.count
        return rows_of_groups(name, layout, self.blocks) / per_head

    def _all_pruned(self, matrix: ExpectedMatrix, block: RowBlock) -> Tensor:
        """Probability that all sub-groups of a block are pruned, by head: `(heads,)`."""
        members = _groups_of_heads(matrix.spec.layout, block, self.count).to(matrix.keep.device)
        return torch.where(members, 1 - matrix.keep, 1.0).prod(1)


Removable = FeedForwardRows | Heads


def removable_parts(space: PrecisionSpace) -> list[Removable]:
    """Everything that some assignment of `space` could take out, layer by layer."""
    layouts = {name: spec.layout for name, spec in space.weights.items()}
    links = [
        link
        for link in space.links
        if applies(link, layouts) and all(layouts[block.name].axis == 0 for block in link.blocks)
    ]
    rows = [FeedForwardRows(space, link) for link in links if link.kind in ("pointwise", "gated")]
    pairs = ((link, scores_of(link, links)) for link in links if link.kind == "value")
    return [*rows, *(Heads(space, value, scores) for value, scores in pairs if scores is not None)]


def _by_head(lines: Tensor, block: RowBlock, heads: int) -> Tensor:
    return lines[block.start : block.start + block.count].view(heads, -1)


def rows_of_groups(name: str, layout: SubgroupLayout, blocks: tuple[RowBlock, ...]) -> Tensor:
    """Rows of the blocks in each sub-group, `(groups,)` float64."""
    rows = torch.zeros(layout.count, dtype=torch.float64)
    for block in blocks:
        if block.name == name:
            index = layout.index()[block.start : block.start + block.count]
            rows += torch.bincount(index, minlength=layout.count)
    return rows


@lru_cache(maxsize=4096)
def _groups_of_heads(layout: SubgroupLayout, block: RowBlock, heads: int) -> Tensor:
    """Which sub-groups have rows of which head, `(heads, groups)` bool."""
    members = torch.zeros(heads, layout.count, dtype=torch.bool)
    return members.scatter_(1, _by_head(layout.index(), block, heads), True)
