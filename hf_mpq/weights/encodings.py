"""How stored integer codes become weight values again."""

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from ..core import Registry, constant

ENCODINGS: Registry[type["Encoding"]] = Registry("encoding")


class Encoding(ABC):
    """Turns the unsigned codes of one precision into float32 values.

    Attributes:
        evenly_spaced: whether `integers` gives levels, and they are `slope * code - shift` with the same whole numbers
            for all codes of a precision: then kernels read codes where they are stored.
    """

    evenly_spaced: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def floats(cls, bits: int, nested: tuple[int, ...] = ()) -> int:
        """Number of stored floats per sub-group at `bits`, of nested codes as many planes as are stored."""

    @classmethod
    @abstractmethod
    def decode(cls, codes: Tensor, floats: Tensor, bits: int, nested: tuple[int, ...] = ()) -> Tensor:
        """Values of codes.

        Args:
            codes: `(lines, length)` uint8, each below `2 ** bits`.
            floats: of each line's sub-group, `(lines, floats)` float32.
            bits: precision of the codes.
            nested: for codes that serve several precisions, all that they were made for, ascending; the codes are then
                the top `bits` planes of the highest.
        """

    @classmethod
    def integers(
        cls, codes: Tensor, floats: Tensor, bits: int, nested: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Signed integers that stand for the same values: `decode` gives `level * scale + offset`.

        Returns:
            Levels `(lines, length)` int8, scale and offset `(lines,)` float32. A level of 0 is the value 0 where the
            offset is 0. None, as here, for values that are no such integers: products are float then, and formats of
            integers are refused.
        """
        return None


def zero_level(bits: int, half_step_bits: tuple[int, ...]) -> float:
    """Code that stands for zero: `2 ** (bits - 1)`, half a step less on a half-step grid (which has no exact zero)."""
    return 2.0 ** (bits - 1) - (0.5 if bits in half_step_bits else 0.0)


class _Scaled(Encoding):
    evenly_spaced = True
    half_step_bits: tuple[int, ...]

    @classmethod
    def floats(cls, bits: int, nested: tuple[int, ...] = ()) -> int:
        return 1

    @classmethod
    def decode(cls, codes: Tensor, floats: Tensor, bits: int, nested: tuple[int, ...] = ()) -> Tensor:
        return (codes.to(torch.float32) - zero_level(bits, cls.half_step_bits)) * floats

    @classmethod
    def integers(
        cls, codes: Tensor, floats: Tensor, bits: int, nested: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor, Tensor]:
        halves = 2 if bits in cls.half_step_bits else 1
        levels = codes.to(torch.int16) * halves - int(halves * zero_level(bits, cls.half_step_bits))
        return levels.to(torch.int8), floats[:, 0] / halves, torch.zeros_like(floats[:, 0])


@ENCODINGS.register("scaled")
class Scaled(_Scaled):
    """`(code - 2 ** (bits - 1)) * scale`; 1 bit is the sign times half the scale."""

    half_step_bits = (1,)


@ENCODINGS.register("scaled-half")
class ScaledHalf(_Scaled):
    """As `scaled`, with the half-step grid ±1/2, ±3/2 at 2 bits (ParetoQ's shape, Liu et al., 2025)."""

    half_step_bits = (1, 2)


@ENCODINGS.register("affine")
class Affine(Encoding):
    """`code * step + low`: AQ-BERT's min-max quantizer."""

    evenly_spaced = True

    @classmethod
    def floats(cls, bits: int, nested: tuple[int, ...] = ()) -> int:
        return 2

    @classmethod
    def decode(cls, codes: Tensor, floats: Tensor, bits: int, nested: tuple[int, ...] = ()) -> Tensor:
        return codes.to(torch.float32) * floats[:, :1] + floats[:, 1:]

    @classmethod
    def integers(
        cls, codes: Tensor, floats: Tensor, bits: int, nested: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor, Tensor]:
        step, low = floats[:, 0], floats[:, 1]
        return _centred(codes, bits), step, low + 2 ** (bits - 1) * step


@ENCODINGS.register("nested")
class Nested(Encoding):
    """Codes whose top planes are the codes of a lower precision, with one scale per precision, lower ones first: planes
    and scales of the higher ones can be left out.

    `(code - z) * scale` with `z = 2 ** (bits - 1) - 1/2 + 2 ** (bits - top - 1)`, which puts each code at the centre of
    the codes of the top precision that it swallows (reconstructed: the paper on vertical layering prints no equation).
    """

    evenly_spaced = True

    @classmethod
    def floats(cls, bits: int, nested: tuple[int, ...] = ()) -> int:
        return sum(one <= bits for one in nested)

    @classmethod
    def decode(cls, codes: Tensor, floats: Tensor, bits: int, nested: tuple[int, ...] = ()) -> Tensor:
        scale = floats[:, nested.index(bits)].unsqueeze(1)
        return (codes.to(torch.float32) - cls.zero(bits, nested[-1])) * scale

    @classmethod
    def integers(
        cls, codes: Tensor, floats: Tensor, bits: int, nested: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor, Tensor]:
        scale = floats[:, nested.index(bits)]
        return _centred(codes, bits), scale, (2 ** (bits - 1) - cls.zero(bits, nested[-1])) * scale

    @staticmethod
    def zero(bits: int, top: int) -> float:
        """Code that stands for zero at `bits` of `top`."""
        return 2.0 ** (bits - 1) - 0.5 + 2.0 ** (bits - top - 1)


LARGEST_SUMS = {1: 127, 2: 126, 3: 126, 4: 120}
"""Bits to what the whole parts of a basis sum to, about: the largest sum below 128 at which powers of two are exact."""


@lru_cache
def signs_of(bits: int) -> tuple[tuple[float, ...], ...]:
    """The signs that each code stands for, its highest bit first: `(2 ** bits, bits)`."""
    return tuple(tuple(1.0 if code >> bit & 1 else -1.0 for bit in reversed(range(bits))) for code in range(2**bits))


@ENCODINGS.register("basis")
class Basis(Encoding):
    """`(+-n_1 +- ... +- n_bits) * scale` with a sign for each bit of the code, its highest first, and whole numbers
    `n_j` from 0 to 127 that sum to 127 at most: LQ-Nets' levels (Zhang et al., ECCV 2018), each exact in int8. The
    floats of a sub-group are the scale, and the `n_j`."""

    @classmethod
    def floats(cls, bits: int, nested: tuple[int, ...] = ()) -> int:
        return 1 + bits

    @classmethod
    def decode(cls, codes: Tensor, floats: Tensor, bits: int, nested: tuple[int, ...] = ()) -> Tensor:
        return cls._levels(codes, floats, bits) * floats[:, :1]

    @classmethod
    def integers(
        cls, codes: Tensor, floats: Tensor, bits: int, nested: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor, Tensor]:
        return cls._levels(codes, floats, bits).to(torch.int8), floats[:, 0], torch.zeros_like(floats[:, 0])

    @staticmethod
    def whole(parts: Tensor) -> Tensor:
        """The nearest whole numbers that may be stored, `(groups, bits)`; the largest gives way where the sum is too
        large."""
        found = torch.round(parts).clamp(0, 127)
        excess = (found.sum(1) - 127).clamp(min=0)
        return torch.cat([found[:, :1] - excess.unsqueeze(1), found[:, 1:]], dim=1)

    @staticmethod
    def _levels(codes: Tensor, floats: Tensor, bits: int) -> Tensor:
        table = floats[:, 1:] @ constant(signs_of(bits), torch.float32, floats.device).T  # (lines, 2 ** bits)
        return table.gather(1, codes.to(torch.int64))


def _centred(codes: Tensor, bits: int) -> Tensor:
    """Codes around zero, int8."""
    return (codes.to(torch.int16) - 2 ** (bits - 1)).to(torch.int8)
