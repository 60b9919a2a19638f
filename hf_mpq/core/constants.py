"""Tensors of Python numbers, made once."""

from functools import lru_cache

import torch
from torch import Tensor


def constant(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`torch.tensor(values, ...)`, not to be written to.

    A copy to a GPU waits for all work that is under way there, so what is needed in every step is kept on the device;
    compiled graphs have constants of their own.

    Args:
        values: numbers, or equally long tuples of them.
    """
    if torch.compiler.is_compiling():
        return torch.tensor(values, dtype=dtype, device=device)
    return _made(values, dtype, device)


@lru_cache(maxsize=4096)
def _made(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
