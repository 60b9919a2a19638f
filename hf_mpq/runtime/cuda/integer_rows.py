"""A packed weight as integers, in as much detail as it is stored."""

from typing import NamedTuple

import torch
from torch import Tensor

from ...format import unpack_planes
from ...nn import PackedLinear
from ...nn.integers import IntegerMatrix
from ...weights import ENCODINGS
from ..compaction import CompactLinear


class Block(NamedTuple):
    """Rows of one precision. A code stands for the level `slope * code - shift`.

    Attributes:
        planes: `(bits, lines, bytes)` uint8, a view of the stored codes.
        lines: their places in the stored matrix, `(lines,)`.
        scale, offset: `(lines,)` float32.
    """

    planes: Tensor
    lines: Tensor
    slope: int
    shift: int
    scale: Tensor
    offset: Tensor


def blocks_of(layer: PackedLinear) -> list[Block] | None:
    """The unpruned rows of a layer by precision; None where codes are stored by column, under a mask, or are not evenly
    spaced."""
    stored, blocks = layer.stored, []
    if stored.layout.axis or stored.kept or not ENCODINGS[stored.encoding].evenly_spaced:
        return None
    floats, line_floats, planes = layer.group_floats(), layer.line_floats(), layer.code_planes()
    for bits, lines in layer.lines_by_precision().items():
        ends = torch.arange(2, dtype=torch.uint8, device=lines.device).expand(len(lines), 2)
        of_line = floats[bits][line_floats[lines]]
        levels, scale, offset = ENCODINGS[stored.encoding].integers(ends, of_line, len(planes[bits]), stored.nested)
        first, second = levels[0].tolist()
        blocks.append(Block(planes[bits], lines, second - first, -first, scale, offset))
    return blocks


class IntegerRows(NamedTuple):
    """`weight = levels * scale + live * offset + factors[0] @ factors[1]`, of the rows and columns that are computed.

    Attributes:
        levels: `(out, in)` int8.
        scale: `(out,)` float32; NaN where the stored one is infinite.
        offset: `(out,)` float32; None where it is zero.
        live: columns that the offset reaches, `(in,)` bool.
        bias: `(out,)` float32.
        factors: the low-rank correction, `(out, rank)` and `(rank, in)` float32; None without one.
        exact: whether that is the stored weight; otherwise each row, corrected, was rounded to 255 levels.
    """

    levels: Tensor
    scale: Tensor
    offset: Tensor | None
    live: Tensor
    bias: Tensor
    factors: tuple[Tensor, Tensor] | None
    exact: bool

    @classmethod
    def of(cls, layer: PackedLinear) -> "IntegerRows":
        """The stored integers of a layer. Rows are rounded only where there are no such integers: with a scale per
        column, and with offsets under a mask."""
        blocks, (rows, columns) = blocks_of(layer), computed(layer)
        stored = layer.integers() if blocks is None else _filled(layer, blocks, rows, columns)
        live = layer.column_flags()[columns] if blocks is not None else torch.ones_like(columns, dtype=torch.bool)
        if stored is None:
            rounded = IntegerMatrix.of(layer)
            return cls(rounded.levels, rounded.scale, rounded.offset, live, rounded.bias, None, False)
        levels, scale, offset = stored
        bias, factors = layer.bias, layer.factors()
        bias = torch.zeros_like(scale) if bias is None else bias.float()
        factors = None if factors is None else (factors[0][rows], factors[1][:, columns])
        return cls(levels, scale + 0 * scale, offset if offset.any() else None, live, bias, factors, True)


def computed(layer: PackedLinear) -> tuple[Tensor, Tensor]:
    """Rows and columns of the stored matrix that take part in the product."""
    if isinstance(layer, CompactLinear):
        return layer.kept_rows, layer.kept_columns
    rows, columns = layer.stored.layout.shape
    return torch.arange(rows, device=layer.device), torch.arange(columns, device=layer.device)


def _filled(layer: PackedLinear, blocks: list[Block], rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Levels `(out, in)` int8, scale and offset `(out,)` of the rows and columns that are computed."""
    stored, flags = layer.stored, layer.column_flags()
    lines = torch.zeros(stored.layout.shape[0], stored.length, dtype=torch.int8, device=flags.device)
    scale = torch.ones(len(lines), device=flags.device)
    offset = torch.zeros_like(scale)
    for block in blocks:
        codes = unpack_planes(block.planes, stored.length).to(torch.int16)
        lines[block.lines] = (codes * block.slope - block.shift).to(torch.int8)
        scale[block.lines], offset[block.lines] = block.scale, block.offset
    levels = lines.new_zeros(stored.layout.shape)
    levels[:, flags] = lines
    return levels[rows][:, columns], scale[rows], offset[rows]
