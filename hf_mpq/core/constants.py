"""Tensors of Python numbers, made once."""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=4096)
def constant(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`torch.tensor(values, ...)`, not to be written to.

    A copy to a GPU waits for all work that is under way there, so what is needed in every step is kept on the device.

    Args:
        values: numbers, or equally long tuples of them.
    """
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
