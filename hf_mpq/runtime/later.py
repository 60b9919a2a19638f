"""What is made at its first use."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def for_later() -> Iterator[None]:
    """Inside, tensors are ordinary ones, which a backward pass may keep, whatever mode their first use is in."""
    with torch.inference_mode(False), torch.no_grad():
        yield
