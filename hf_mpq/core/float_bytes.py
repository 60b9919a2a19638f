"""Floats kept as bytes: a uint8 buffer is left alone by `dtype=`, `.to` and `.half`."""

import torch
from torch import Tensor


def to_bytes(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values rounded to `dtype`, as a flat uint8 tensor; saturates instead of overflowing."""
    limit = torch.finfo(dtype).max
    return values.detach().float().clamp(-limit, limit).to(dtype).flatten().contiguous().view(torch.uint8)


def from_bytes(octets: Tensor, dtype: torch.dtype) -> Tensor:
    """The flat float32 values of `to_bytes`."""
    return octets.clone().view(dtype).float()
