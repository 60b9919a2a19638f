"""Bit planes as the kernel reads them: in the model's own buffers."""

from typing import NamedTuple

import torch
from torch import Tensor

from ...nn.packed import PackedMatrix
from ..compaction import CompactLinear
from ..cuda.integer_rows import Block, blocks_of, computed
from . import structures

SLOPES = (1, 2)
"""Of levels, that the kernel knows."""


class StoredRows(NamedTuple):
    """Rows of a matrix, `weight = level * scale + offset`, whose levels stay in their planes.

    Attributes:
        codes: the stored planes, as the model holds them.
        blocks: of the kernel, one for each precision.
        places: of the kernel, `(rows,)` int32.
        line: bytes of a row in one plane.
        scale, offset: `(rows,)` float32; no offset where it is zero.
        columns: of the product.
        bits: on average over the rows that have codes.
    """

    codes: Tensor
    blocks: list[structures.Block]
    places: Tensor
    line: int
    scale: Tensor
    offset: Tensor | None
    columns: int
    bits: float

    @classmethod
    def of(cls, layer: PackedMatrix) -> "StoredRows | None":
        """None where codes cannot be read in place: of columns, under a mask, unevenly spaced, with a correction, or
        where a column is read that is not stored."""
        blocks = None if layer.stored.rank else blocks_of(layer)
        if not blocks or not all(_is_read(block) for block in blocks):
            return None
        rows, columns = (None, None) if _is_whole(layer) else computed(layer)
        if columns is not None and not torch.equal(layer.column_flags().nonzero().flatten(), columns):
            return None
        by_rows = _by_rows(blocks, layer.stored.layout.shape[0])
        places, scale, offset = by_rows if rows is None else (values[rows] for values in by_rows)
        described = [_described(block) for block in blocks]
        counts = [len(block.lines) for block in blocks]
        bits = sum(len(block.planes) * count for block, count in zip(blocks, counts)) / sum(counts)
        return cls(
            layer._buffers["codes"].detach(),
            described,
            places,
            blocks[0].planes.shape[2],
            scale + 0 * scale,  # NaN where it is infinite, which times a level of 0 is NaN
            offset if offset.any() else None,
            layer.stored.length if columns is None else len(columns),
            bits,
        )


def _is_whole(layer: PackedMatrix) -> bool:
    """Whether every row and column is stored and computed."""
    return "live_columns" not in layer._buffers and not isinstance(layer, CompactLinear)


def _described(block: Block) -> structures.Block:
    planes = block.planes
    return structures.Block(planes.data_ptr(), planes.stride(0), len(planes), block.slope, block.shift)


def _is_read(block: Block) -> bool:
    return block.slope in SLOPES and block.slope * (2 ** len(block.planes) - 1) <= 255


def _by_rows(blocks: list[Block], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Places, scales and offsets of all stored rows; pruned ones have the level 0."""
    if len(blocks) == 1 and len(blocks[0].lines) == count:
        (block,) = blocks
        return torch.arange(count, dtype=torch.int32) * structures.BLOCKS, block.scale, block.offset
    places = torch.full((count,), structures.NOWHERE, dtype=torch.int32)
    scale, offset = torch.ones(count), torch.zeros(count)
    for number, block in enumerate(blocks):
        lines = torch.arange(len(block.lines), dtype=torch.int32)
        places[block.lines] = lines * structures.BLOCKS + number
        scale[block.lines], offset[block.lines] = block.scale, block.offset
    return places, scale, offset
