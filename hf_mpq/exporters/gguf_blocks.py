"""Integers and their row scales as the block types of GGUF files, byte by byte.

A block is 32 values of a row, or 256 in the K types; each has its own float16 scale, which here is that of the row. The
layouts are those of `ggml-common.h` in llama.cpp.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

LARGE = 256
"""Values of a block of the K and ternary types."""
SMALL = 32
"""Values of a block of the others."""


class BlockType(NamedTuple):
    """How levels of one range are stored.

    Attributes:
        name: of the type in GGUF.
        block: values that share a scale; rows have a multiple of it.
        low, high: the range of levels, or, with an offset, the distance between them counts.
        offset: whether a row may have one.
        pack: `(blocks, block)` int levels and `(blocks,)` float scales and offsets to `(blocks, bytes)` uint8.
        step: the levels are that far apart.
    """

    name: str
    block: int
    low: int
    high: int
    offset: bool
    pack: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    step: int = 1


def block_type(levels: np.ndarray, offset: np.ndarray | None) -> BlockType | None:
    """The type with the fewest bytes that holds a matrix exactly, but for the rounding of scales to float16.

    Args:
        levels: `(rows, columns)` int8.
        offset: of each row; None without.

    Returns:
        None where no type does: rows that are no multiple of 32, or an offset beside levels of more than 5 bits.
    """
    low, high, odd = int(levels.min()), int(levels.max()), bool((levels & 1).all())
    for kind in TYPES:
        if levels.shape[1] % kind.block or (offset is not None) != kind.offset:
            continue
        if kind.offset and int((levels.max(1).astype(int) - levels.min(1)).max()) <= kind.high - kind.low:
            return kind
        if not kind.offset and kind.low <= low and high <= kind.high and (kind.step == 1 or odd):
            return kind
    return None


def packed_rows(kind: BlockType, levels: np.ndarray, scale: np.ndarray, offset: np.ndarray | None) -> np.ndarray:
    """`(rows, bytes)` uint8 of a matrix.

    Args:
        levels: `(rows, columns)` int8.
        scale: `(rows,)` float.
        offset: `(rows,)` float, or None.
    """
    rows, each = levels.shape[0], levels.shape[1] // kind.block
    codes, shift = levels.astype(np.int16), np.zeros(rows, np.float32)
    if offset is not None:
        lowest = codes.min(1)
        codes, shift = codes - lowest[:, None], offset + scale * lowest
    given = (np.repeat(values.astype(np.float32), each) for values in (scale, shift))
    return kind.pack(codes.reshape(-1, kind.block), *given).reshape(rows, -1)


def _half(values: np.ndarray) -> np.ndarray:
    return values.astype("<f2").view(np.uint8).reshape(-1, 2)


def _nibbles(codes: np.ndarray) -> np.ndarray:
    """Low four bits: the second half of a block in the upper ones, `(blocks, 16)`."""
    codes = (codes & 15).astype(np.uint8)
    return codes[:, :16] | codes[:, 16:] << 4


def _fifth(codes: np.ndarray) -> np.ndarray:
    """The fifth bit of each of 32 codes, `(blocks, 4)`."""
    return np.packbits((codes >> 4 & 1).astype(np.uint8), axis=1, bitorder="little")


def _pairs(codes: np.ndarray) -> np.ndarray:
    """Low two bits of 256 codes: those 32 apart share a byte, `(blocks, 64)`."""
    codes = (codes & 3).astype(np.uint8).reshape(-1, 2, 4, 32)
    return (codes[:, :, 0] | codes[:, :, 1] << 2 | codes[:, :, 2] << 4 | codes[:, :, 3] << 6).reshape(-1, 64)


def _bytes(value: int, count: int, blocks: int) -> np.ndarray:
    return np.full((blocks, count), value, np.uint8)


def _tq2_0(codes: np.ndarray, scale: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.concatenate([_pairs(codes + 1), _half(scale)], 1)


def _q2_k(low: int, step: int) -> Callable:
    """`d * sc * q - dmin * m`: `d = dmin` is the scale, `sc` the step between levels and `m` the lowest one."""

    def pack(codes: np.ndarray, scale: np.ndarray, _: np.ndarray) -> np.ndarray:
        scales = _bytes(step | -low << 4, 16, len(codes))
        return np.concatenate([scales, _pairs((codes - low) // step), _half(scale), _half(scale)], 1)

    return pack


def _q3_k(codes: np.ndarray, scale: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Scales within the block are 1, six bits with an offset of 32."""
    codes = codes + 4
    high = np.packbits((codes >> 2 & 1).astype(np.uint8).reshape(-1, 8, 32), axis=1, bitorder="little").reshape(-1, 32)
    scales = np.concatenate([_bytes(0x11, 8, len(codes)), _bytes(0xAA, 4, len(codes))], 1)
    return np.concatenate([high, _pairs(codes), scales, _half(scale)], 1)


def _q6_k(codes: np.ndarray, scale: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Scales within the block are 1."""
    codes = codes + 32
    parts = (codes & 15).astype(np.uint8).reshape(-1, 2, 4, 32)
    low = np.concatenate([parts[:, :, 0] | parts[:, :, 2] << 4, parts[:, :, 1] | parts[:, :, 3] << 4], 2)
    return np.concatenate([low.reshape(-1, 128), _pairs(codes >> 4), _bytes(1, 16, len(codes)), _half(scale)], 1)


def _q4_0(codes: np.ndarray, scale: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.concatenate([_half(scale), _nibbles(codes + 8)], 1)


def _q5_0(codes: np.ndarray, scale: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.concatenate([_half(scale), _fifth(codes + 16), _nibbles(codes + 16)], 1)


def _q8_0(codes: np.ndarray, scale: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.concatenate([_half(scale), codes.astype(np.int8).view(np.uint8)], 1)


def _q4_1(codes: np.ndarray, scale: np.ndarray, low: np.ndarray) -> np.ndarray:
    return np.concatenate([_half(scale), _half(low), _nibbles(codes)], 1)


def _q5_1(codes: np.ndarray, scale: np.ndarray, low: np.ndarray) -> np.ndarray:
    return np.concatenate([_half(scale), _half(low), _fifth(codes), _nibbles(codes)], 1)


TYPES = (
    BlockType("TQ2_0", LARGE, -1, 1, False, _tq2_0),
    BlockType("Q2_K", LARGE, -2, 1, False, _q2_k(-2, 1)),
    BlockType("Q2_K", LARGE, -3, 3, False, _q2_k(-3, 2), step=2),
    BlockType("Q3_K", LARGE, -4, 3, False, _q3_k),
    BlockType("Q4_0", SMALL, -8, 7, False, _q4_0),
    BlockType("Q4_1", SMALL, 0, 15, True, _q4_1),
    BlockType("Q5_0", SMALL, -16, 15, False, _q5_0),
    BlockType("Q5_1", SMALL, 0, 31, True, _q5_1),
    BlockType("Q6_K", LARGE, -32, 31, False, _q6_k),
    BlockType("Q8_0", SMALL, -128, 127, False, _q8_0),
)
"""The narrowest first."""
