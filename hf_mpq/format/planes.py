"""Bit planes: one packer for every width from 1 to 8.

Eight codes of `bits` bits become `bits` bytes, byte p holding bit `bits - 1 - p` (most significant plane first) of all
eight, the first code in the highest bit. That is the transposition of an 8 by 8 bit matrix, done here for all groups of
eight at once in three exchange steps on 64-bit words (Warren, Hacker's Delight, section 7-3). The top planes alone are
the codes shifted right, so a lower nested precision is a prefix.
"""

from math import ceil

import torch
from torch import Tensor
from torch.nn.functional import pad

_EXCHANGES = ((9, 0x0055005500550055), (18, 0x0000333300003333), (36, 0x000000000F0F0F0F))
"""Shift and mask of each step, for words in little-endian byte order: transposition along the other diagonal."""


def _transpose(words: Tensor) -> Tensor:
    """Reorder each int64, in place, its own inverse: bit b of byte j moves to bit `7 - j` of byte `7 - b`."""
    moved = torch.empty_like(words)
    for shift, mask in _EXCHANGES:
        torch.bitwise_right_shift(words, shift, out=moved)
        moved.bitwise_xor_(words).bitwise_and_(mask)
        words.bitwise_xor_(moved).bitwise_xor_(moved.bitwise_left_shift_(shift))
    return words


def pack_planes(codes: Tensor, bits: int) -> Tensor:
    """Pack codes below `2 ** bits`.

    Args:
        codes: `(lines, length)` uint8.

    Returns:
        `(bits, lines, ceil(length / 8))` uint8.
    """
    lines, length = codes.shape
    octets = pad(codes, (0, -length % 8)).view(lines, ceil(length / 8), 8)
    planes = _reorder(octets)
    return planes[..., 8 - bits :].permute(2, 0, 1).contiguous()


def unpack_planes(planes: Tensor, length: int) -> Tensor:
    """Codes of the given planes, most significant first: `(planes, lines, bytes)` uint8 to `(lines, length)` uint8."""
    octets = pad(planes.permute(1, 2, 0), (8 - planes.shape[0], 0))
    return _reorder(octets).flatten(1)[:, :length]


def _reorder(octets: Tensor) -> Tensor:
    """Transpose every `(..., 8)` group of bytes as a bit matrix; its own inverse."""
    words = _transpose(octets.clone(memory_format=torch.contiguous_format).flatten().view(torch.int64))
    return words.view(torch.uint8).view(octets.shape)


def pack_flags(flags: Tensor) -> Tensor:
    """`(n,)` bool to `(ceil(n / 8),)` uint8."""
    return pack_planes(flags.to(torch.uint8).unsqueeze(0), 1).flatten()


def unpack_flags(packed: Tensor, count: int) -> Tensor:
    """The inverse of `pack_flags`."""
    return unpack_planes(packed.view(1, 1, ceil(count / 8)), count).flatten().bool()
