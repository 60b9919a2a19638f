"""Products in bfloat16, on CPUs that are made for them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def cpu_multiplies_bf16() -> bool:
    """Whether a CPU is all there is, and it multiplies bfloat16 in hardware."""
    return not torch.cuda.is_available() and bool(
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


@contextmanager
def bf16_products(model: nn.Module, wanted: bool | None = None) -> Iterator[None]:
    """Products of a float32 model in bfloat16, by autocast.

    Args:
        wanted: None where that is quicker: on a CPU that multiplies it, by the library that knows how.
    """
    first = next(model.parameters())
    if wanted is None:
        quick = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled and cpu_multiplies_bf16()
        wanted = quick and first.device.type == "cpu"
    if not wanted or first.dtype != torch.float32:
        yield
        return
    with torch.autocast(first.device.type, torch.bfloat16, cache_enabled=False):
        yield


@contextmanager
def own_products(model: nn.Module) -> Iterator[None]:
    """Inside `bf16_products`: products in the type of the model again."""
    with torch.autocast(next(model.parameters()).device.type, enabled=False):
        yield
