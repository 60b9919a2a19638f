"""From integer sums to outputs in one pass."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..codes import InputCodes
from ..product import Epilogue

TOKENS, ROWS = 16, 128
"""Of one tile."""


@triton.jit(do_not_specialize=["tokens"])
def _finish(
    sums,
    y,
    column_sum,
    scale,
    offset,
    bias,
    steps,
    zeros,
    tokens,
    rows,
    width,
    OFFSETS: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One tile of outputs; `width` is that of the sums."""
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    here, there = token < tokens, row < rows
    own = token if PER_TOKEN else token * 0
    step = tl.load(steps + own, mask=here, other=0.0)
    zero = tl.load(zeros + own, mask=here, other=0)
    inside = here[:, None] & there[None, :]
    exact = tl.load(sums + token[:, None] * width + row[None, :], mask=inside, other=0)
    exact -= zero[:, None] * tl.load(column_sum + row, mask=there, other=0)[None, :]
    value = exact.to(tl.float32) * tl.load(scale + row, mask=there, other=0.0)[None, :]
    if OFFSETS:
        count = tl.load(sums + token * width + rows, mask=here, other=0) - zero * tl.load(column_sum + rows)
        value += count.to(tl.float32)[:, None] * tl.load(offset + row, mask=there, other=0.0)[None, :]
    value = value * step[:, None] + tl.load(bias + row, mask=there, other=0.0)[None, :]
    tl.store(y + token[:, None] * rows + row[None, :], value.to(y.dtype.element_ty), mask=inside)


def finished(sums: Tensor, codes: InputCodes, epilogue: Epilogue, tokens: int, dtype: torch.dtype) -> Tensor:
    """As `finished` of torch's operators: `(tokens, out)`.

    Args:
        sums: `(tokens, out)` int32, contiguous, both padded.
    """
    rows = len(epilogue.scale)
    y = torch.empty(tokens, rows, dtype=dtype, device=sums.device)
    offset = epilogue.scale if epilogue.offset is None else epilogue.offset
    with torch.cuda.device_of(sums):
        _finish[(triton.cdiv(tokens, TOKENS), triton.cdiv(rows, ROWS))](
            sums,
            y,
            epilogue.column_sum,
            epilogue.scale,
            offset,
            epilogue.bias,
            codes.step,
            codes.zero,
            tokens,
            rows,
            sums.shape[1],
            OFFSETS=epilogue.offset is not None,
            PER_TOKEN=codes.step.dim() > 1,
            TOKENS=TOKENS,
            ROWS=ROWS,
        )
    return y
