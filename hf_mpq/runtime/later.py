"""What is made at its first use."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def for_later() -> Iterator[None]:
    """Inside, tensors are ordinary ones, which a backward pass may keep, in the types that they have without autocast,
    whatever mode their first use is in."""
    floats = torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False)
    with torch.inference_mode(False), torch.no_grad(), floats[0], floats[1]:
        yield
