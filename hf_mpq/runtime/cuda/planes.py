"""Where the kernel finds the bit planes of each row that is computed."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...nn import PackedLinear
from .integer_rows import Block, blocks_of, computed

LINES = 16
"""Rows of one tile; all of one precision."""
MOST_BITS = 4
"""On average over the rows: above, one byte a weight is hardly more to read, and needs no unpacking."""


class PlaneTable(NamedTuple):
    """Tiles of rows of one precision, over the stored codes.

    Attributes:
        codes: all planes, uint8.
        tiles: `(tiles, 4)` int64: bytes from one plane to the next, planes, slope and shift of the codes. Pruned rows
            have no planes, and the level 0.
        starts: first byte of each row in its first plane, `(tiles * LINES,)` int64.
        rows: its place in the output, `(tiles * LINES,)` int64; -1 where a tile is not full.
        columns: place in the input of each stored column, `(length,)` int64, -1 where it is not computed; None
            where it is the same.
        length, line_bytes, planes: stored columns, their bytes in one plane, and the most planes of any tile.
    """

    codes: Tensor
    tiles: Tensor
    starts: Tensor
    rows: Tensor
    columns: Tensor | None
    length: int
    line_bytes: int
    planes: int

    @classmethod
    def of(cls, layer: PackedLinear) -> "PlaneTable | None":
        """None where the codes cannot be read in place, or it does not pay: above `MOST_BITS` on average."""
        blocks = blocks_of(layer)
        if not blocks or not layer.stored.length or _mean_bits(blocks) > MOST_BITS:
            return None
        codes, (row_of_line, column_of) = layer._buffers["codes"], _places(layer)
        parts = [_pruned(blocks, row_of_line), *(_listed(block, codes, row_of_line) for block in blocks)]
        tiles, starts, rows = (torch.cat(part) for part in zip(*parts))
        return cls(
            codes,
            tiles,
            starts,
            rows,
            column_of,
            layer.stored.length,
            blocks[0].planes.shape[2],
            max(len(block.planes) for block in blocks),
        )


def _mean_bits(blocks: list[Block]) -> float:
    return sum(len(block.planes) * len(block.lines) for block in blocks) / sum(len(block.lines) for block in blocks)


def _places(layer: PackedLinear) -> tuple[Tensor, Tensor | None]:
    """Output row of each stored line, and input column of each stored one; -1 where it is not computed."""
    rows, columns = computed(layer)
    row_of_line, column_of = (torch.full((size,), -1, device=rows.device) for size in layer.stored.layout.shape)
    row_of_line[rows] = torch.arange(len(rows), device=rows.device)
    column_of[columns] = torch.arange(len(columns), device=rows.device)
    column_of = column_of[layer.column_flags()]
    same = len(column_of) == len(columns) and bool((column_of >= 0).all())
    return row_of_line, None if same else column_of


def _listed(block: Block, codes: Tensor, row_of_line: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tiles, starts and rows of one precision."""
    rows, (bits, lines, line_bytes) = row_of_line[block.lines], block.planes.shape
    first = block.planes.storage_offset() - codes.storage_offset()
    starts = first + line_bytes * torch.arange(lines, device=rows.device)
    return _tiled(starts[rows >= 0], rows[rows >= 0], (block.planes.stride(0), bits, block.slope, block.shift))


def _pruned(blocks: list[Block], row_of_line: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same of rows without codes, which give their bias."""
    silent = row_of_line >= 0
    for block in blocks:
        silent[block.lines] = False
    rows = row_of_line[silent]
    return _tiled(torch.zeros_like(rows), rows, (0, 0, 0, 0))


def _tiled(starts: Tensor, rows: Tensor, tile: tuple[int, int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    missing = -len(rows) % LINES
    starts, rows = pad(starts, (0, missing)), pad(rows, (0, missing), value=-1)
    return torch.tensor(tile, device=rows.device).expand(len(rows) // LINES, 4), starts, rows
