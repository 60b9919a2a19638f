"""Quantizing inputs in one pass: range, step and levels of each token."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....weights import ActivationQuantizer
from ..codes import InputCodes, plain_codes, shift_of


@triton.jit
def _rounded(value):
    """To the nearest integer, halves to even, below 2^22; larger values stay about as large."""
    return (value + 12582912.0) - 12582912.0


@triton.jit
def _quantize(
    x,
    levels,
    steps,
    zeros,
    fixed_step,
    fixed_zero,
    width,
    padded,
    PER_TOKEN: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    TOP: tl.constexpr,
    SHIFT: tl.constexpr,
    INVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One token: its levels, with zeros behind them."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    value = tl.load(x + token * width + column, mask=column < width, other=0.0).to(tl.float32)
    top = tl.full([], TOP, tl.float32)
    if PER_TOKEN:
        low = tl.minimum(tl.min(value, axis=0), 0.0)
        high = tl.maximum(tl.max(value, axis=0), 0.0)
        reach = tl.maximum(-low, high) if SYMMETRIC else high - low
        # torch multiplies by the inverse of a scalar on a GPU, and divides on a CPU
        step = reach * (1.0 / TOP) if INVERSE else tl.div_rn(reach, top)
        divisor = tl.where(step == 0.0, 1.0, step)
        zero = tl.zeros([], tl.float32) if SYMMETRIC else _rounded(tl.div_rn(-low, divisor)) - SHIFT
    else:
        step = tl.load(fixed_step)
        divisor = tl.where(step == 0.0, 1.0, step)
        zero = tl.load(fixed_zero).to(tl.float32)
    finite = tl.min((tl.abs(value) < float("inf")).to(tl.int32), axis=0) > 0
    tl.store(steps + token, tl.where(finite, step, float("nan")))
    tl.store(zeros + token, zero.to(tl.int32))
    level = _rounded(tl.div_rn(value, divisor + tl.zeros_like(value))) + zero
    lowest = -TOP if SYMMETRIC else -SHIFT
    level = tl.minimum(tl.maximum(level, lowest), TOP - SHIFT)
    level = tl.where(column < width, level, 0.0)
    tl.store(levels + token * padded + column, level.to(tl.int8), mask=column < padded)


def input_codes(
    quantizer: ActivationQuantizer, fixed: tuple[Tensor, Tensor] | None, tokens: Tensor, width: int, least: int
) -> InputCodes:
    """As `plain_codes`, in one pass; rows of padding are not set.

    Args:
        fixed: step, and zero point as of `InputCodes`, of a quantizer that has the same for every input.
        tokens: `(tokens, in)`, contiguous, at least one.
    """
    per_token = quantizer.name == "dynamic-token"
    if fixed is None and not per_token:
        return plain_codes(quantizer, tokens, width, least)
    count, shift, like = len(tokens), shift_of(quantizer), {"device": tokens.device}
    levels = torch.empty(max(count, least), width, dtype=torch.int8, **like)
    step, zero = torch.empty(count, 1, **like), torch.empty(count, 1, dtype=torch.int32, **like)
    fixed_step, fixed_zero = fixed or (step, zero)
    top = 2 ** (quantizer.bits - 1) - 1 if quantizer.symmetric else 2**quantizer.bits - 1
    with torch.cuda.device_of(tokens):
        _quantize[(count,)](
            tokens,
            levels,
            step,
            zero,
            fixed_step,
            fixed_zero,
            tokens.shape[1],
            width,
            PER_TOKEN=per_token,
            SYMMETRIC=quantizer.symmetric,
            TOP=top,
            SHIFT=shift,
            INVERSE=tokens.is_cuda,
            BLOCK=triton.next_power_of_2(width),
        )
    return InputCodes(levels, step, zero)
