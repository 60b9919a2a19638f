"""Products with bit planes: what is read of a weight is what is stored of it."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..codes import InputCodes
from ..integer_rows import IntegerRows
from ..planes import LINES, PlaneTable
from ..product import Epilogue

BYTES = 16
"""Of each row and plane at once: 128 columns. Twice as many take twice the registers, and then fewer tiles run."""
LEAST_TOKENS = 16
"""Of one tile; what a matrix instruction takes."""


@triton.jit(do_not_specialize=["tokens"])
def _unpack(
    x,
    y,
    codes,
    tiles,
    starts,
    rows,
    columns,
    column_sum,
    scale,
    offset,
    bias,
    steps,
    zeros,
    tokens,
    x_width,
    y_width,
    length,
    line_bytes,
    INTEGER: tl.constexpr,
    GATHERED: tl.constexpr,
    OFFSETS: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    PLANES: tl.constexpr,
    LINES: tl.constexpr,
    BYTES: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """One tile of rows, of one precision, times one tile of tokens."""
    tile = tl.program_id(0)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    here = token < tokens
    stride, bits = tl.load(tiles + 4 * tile), tl.load(tiles + 4 * tile + 1).to(tl.int32)
    slope, shift = tl.load(tiles + 4 * tile + 2).to(tl.int32), tl.load(tiles + 4 * tile + 3).to(tl.int32)
    listed = tile * LINES + tl.arange(0, LINES)
    start, row = tl.load(starts + listed), tl.load(rows + listed)
    there = row >= 0
    sums = tl.zeros([LINES, TOKENS], dtype=tl.int32 if INTEGER else tl.float32)
    count = tl.zeros([TOKENS], dtype=tl.int32 if INTEGER else tl.float32)
    for first in range(0, line_bytes, BYTES):
        place = first + tl.arange(0, BYTES)
        code = tl.zeros([LINES, BYTES, 8], dtype=tl.int32)
        for plane in tl.static_range(PLANES):
            read = (there[:, None] & (place < line_bytes)[None, :]) & (plane < bits)
            octet = tl.load(codes + start[:, None] + plane * stride + place[None, :], mask=read, other=0).to(tl.int32)
            bit = (octet[:, :, None] >> (7 - tl.arange(0, 8))[None, None, :]) & 1
            code += bit << tl.maximum(bits - 1 - plane, 0)
        level = tl.reshape(code * slope - shift, [LINES, BYTES * 8])
        column = first * 8 + tl.arange(0, BYTES * 8)
        inside = column < length
        if GATHERED:
            column = tl.load(columns + column, mask=inside, other=-1)
            inside = column >= 0
        value = tl.load(x + token[None, :] * x_width + column[:, None], mask=inside[:, None] & here[None, :], other=0)
        if INTEGER:
            sums += tl.dot(level.to(tl.int8), value, out_dtype=tl.int32)
        else:
            sums += tl.dot(level.to(value.dtype), value, input_precision="ieee", out_dtype=tl.float32)
        if OFFSETS:
            count += tl.sum(value.to(count.dtype), axis=0)
    if INTEGER:
        own = token if PER_TOKEN else token * 0
        zero = tl.load(zeros + own, mask=here, other=0)
        sums -= tl.load(column_sum + row, mask=there, other=0)[:, None] * zero[None, :]
    result = sums.to(tl.float32) * tl.load(scale + row, mask=there, other=0.0)[:, None]
    if OFFSETS:
        if INTEGER:
            count -= zero * tl.load(column_sum + y_width)
        result += count.to(tl.float32)[None, :] * tl.load(offset + row, mask=there, other=0.0)[:, None]
    if INTEGER:
        result *= tl.load(steps + own, mask=here, other=0.0)[None, :]
    result += tl.load(bias + row, mask=there, other=0.0)[:, None]
    target = y + token[None, :].to(tl.int64) * y_width + row[:, None]
    tl.store(target, result.to(y.dtype.element_ty), mask=there[:, None] & here[None, :])


def integer_product(
    codes: InputCodes, table: PlaneTable, epilogue: Epilogue, tokens: int, dtype: torch.dtype
) -> Tensor:
    """Quantized inputs times the rows of a table: `(tokens, out)`, the same sums as of the dense integer product."""
    y = torch.empty(tokens, len(epilogue.scale), dtype=dtype, device=codes.levels.device)
    return _launched(codes.levels, y, table, epilogue, codes.step, codes.zero, codes.step.dim() > 1)


def float_product(x: Tensor, table: PlaneTable, rows: IntegerRows) -> Tensor:
    """Float inputs `(tokens, in)` times the rows of a table: `(tokens, out)` in the type of `x`."""
    y = torch.empty(len(x), len(rows.scale), dtype=x.dtype, device=x.device)
    return _launched(x, y, table, Epilogue(rows.scale, rows.scale, rows.offset, rows.bias), None, None, False)


def _launched(x: Tensor, y: Tensor, table: PlaneTable, epilogue: Epilogue, step, zero, per_token: bool) -> Tensor:
    scale, block = epilogue.scale, max(triton.next_power_of_2(len(y)), LEAST_TOKENS)
    with torch.cuda.device_of(x):
        _unpack[(len(table.tiles), 1)](
            x,
            y,
            table.codes,
            table.tiles,
            table.starts,
            table.rows,
            table.starts if table.columns is None else table.columns,
            epilogue.column_sum,
            scale,
            scale if epilogue.offset is None else epilogue.offset,
            epilogue.bias,
            scale if step is None else step,
            scale if zero is None else zero,
            len(y),
            x.shape[1],
            y.shape[1],
            table.length,
            table.line_bytes,
            INTEGER=step is not None,
            GATHERED=table.columns is not None,
            OFFSETS=epilogue.offset is not None,
            PER_TOKEN=per_token,
            PLANES=table.planes,
            LINES=LINES,
            BYTES=BYTES,
            TOKENS=block,
        )
    return y
