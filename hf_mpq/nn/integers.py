"""A packed weight as integers with one scale per row."""

from typing import NamedTuple

import torch
from torch import Tensor

from . import PackedEmbedding, PackedLinear


class IntegerMatrix(NamedTuple):
    """`weight = levels * scale + offset`.

    Attributes:
        levels: `(out, in)` int8.
        scale: `(out,)` float32; NaN where the stored one is infinite, which times a level of 0 is NaN.
        offset: `(out,)` float32; None where it is zero.
        bias: `(out,)` float32.
        exact: whether that is the stored weight; otherwise each row was rounded to 255 levels.
    """

    levels: Tensor
    scale: Tensor
    offset: Tensor | None
    bias: Tensor
    exact: bool

    @property
    def column_sum(self) -> Tensor:
        """Scaled sum of each row's levels, `(out,)` float32: what a zero point of 1 adds to the product."""
        return self.levels.sum(1, dtype=torch.int64).to(torch.float32) * self.scale

    @classmethod
    def of(cls, layer: PackedLinear | PackedEmbedding, offsets: bool = True) -> "IntegerMatrix":
        """The levels of a layer as they are stored; where there is no such form (a scale per column, a low-rank
        correction, offsets under a mask), its decoded rows at 8 bits, which are off by at most 1/254 of the largest.

        Args:
            layer: packed.
            offsets: whether rows may have one; otherwise such matrices are rounded too.
        """
        stored = None if layer.stored.rank else layer.integers()
        stored = None if stored is not None and stored[2].any() and not offsets else stored
        levels, scale, offset = _rounded(layer.weight.float()) if stored is None else stored
        bias = layer.bias
        bias = torch.zeros(len(levels), device=levels.device) if bias is None else bias.float()
        return cls(levels, scale + 0 * scale, offset if offset.any() else None, bias, stored is not None)

    @classmethod
    def is_exact(cls, layer: PackedLinear | PackedEmbedding) -> bool:
        """What `exact` of a layer's matrix is, without decoding it where that can be said at once."""
        stored = layer.stored
        if stored.rank or stored.layout.axis or not layer.has_integers():
            return False
        complete = not stored.kept and stored.length == stored.layout.line_length
        return complete or layer.integers() is not None

    @classmethod
    def stacked(cls, parts: list["IntegerMatrix"]) -> "IntegerMatrix":
        """Matrices that read the same input, one below the other."""
        offset = None
        if any(part.offset is not None for part in parts):
            offset = torch.cat([torch.zeros_like(part.scale) if part.offset is None else part.offset for part in parts])
        names = ("levels", "scale", "bias")
        levels, scale, bias = (torch.cat([getattr(part, name) for part in parts]) for name in names)
        return cls(levels, scale, offset, bias, all(part.exact for part in parts))


def _rounded(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scale = weight.abs().amax(1).div(127)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return torch.round(weight / scale.unsqueeze(1)).to(torch.int8), scale, torch.zeros_like(scale)
