"""Weights that stand still for a while, so that they are not quantized again in every forward pass."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..weights.compilation import run_as_written
from .linear import MPQLinear


@contextmanager
def using_weights(weights: Mapping[MPQLinear, Callable[[], Tensor]]) -> Iterator[None]:
    """Layers use what the given functions return, `(out, in)`, in place of their quantized weights; may be nested."""
    before = {layer: vars(layer).get("quantized_weight") for layer in weights}
    try:
        for layer, weight in weights.items():
            layer.quantized_weight = weight
        yield
    finally:
        for layer, weight in before.items():
            if weight is None:
                del layer.quantized_weight
            else:
                layer.quantized_weight = weight


@contextmanager
def held_weights(part: nn.Module) -> Iterator[None]:
    """Every quantized linear layer in `part` keeps the weight that it has now."""
    with torch.no_grad(), run_as_written():
        weights = {layer: layer.quantized_weight() for layer in part.modules() if isinstance(layer, MPQLinear)}
    with using_weights({layer: lambda weight=weight: weight for layer, weight in weights.items()}):
        yield
