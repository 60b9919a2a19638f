"""Inputs of integer products."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...weights import ActivationQuantizer

UNSIGNED_SHIFT = 128
"""Subtracted from unsigned levels and their zero points: the product takes signed bytes."""


class InputCodes(NamedTuple):
    """`value = (levels - zero) * step`.

    Attributes:
        levels: `(tokens, in)` int8, both padded; the padding's columns are 0.
        step: `(tokens, 1)` float32; NaN for a token that holds NaN or, on a fixed grid, infinity.
        zero: of the same shape, int32.
    """

    levels: Tensor
    step: Tensor
    zero: Tensor

    def values(self, tokens: int, columns: int) -> Tensor:
        """What the levels stand for, without padding, `(tokens, columns)` float32."""
        return (self.levels[:tokens, :columns].to(torch.int32) - self.zero) * self.step


def shift_of(quantizer: ActivationQuantizer) -> int:
    """What is subtracted from its levels."""
    return 0 if quantizer.symmetric else UNSIGNED_SHIFT


def plain_codes(quantizer: ActivationQuantizer, tokens: Tensor, width: int, least: int) -> InputCodes:
    """Quantize by torch's operators.

    Args:
        tokens: `(tokens, in)`.
        width: columns, with padding.
        least: rows, at least.
    """
    codes, grid = quantizer.encode(tokens)
    levels = (codes - shift_of(quantizer)).to(torch.int8)
    padding = (0, width - tokens.shape[1], 0, max(least - len(tokens), 0))
    step = grid.step.expand(len(tokens), 1).contiguous()
    zero = (grid.zero - shift_of(quantizer)).to(torch.int32).expand(step.shape).contiguous()
    return InputCodes(F.pad(levels, padding), step, zero)


def fixed_grid(quantizer: ActivationQuantizer, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Step and zero point of a quantizer that has the same even levels for every input; None of others."""
    if not quantizer.packed_form:
        return None
    grid = quantizer.grid(torch.zeros(1, device=device))
    if grid.levels is not None:
        return None
    return grid.step, (grid.zero - shift_of(quantizer)).to(torch.int32)
