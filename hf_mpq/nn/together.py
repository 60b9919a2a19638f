"""All weights, biases and norms of a model for one forward pass, in a few calls instead of a few for each layer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..core import to_stored_type
from ..weights import WeightProgram
from ..weights.joined import joinable, joined_weights, most_together
from ..weights.seams import Seam
from .linear import MPQLinear
from .norm import MPQLayerNorm


@contextmanager
def quantized_together(model: nn.Module) -> Iterator[None]:
    """Quantize what is alike in one call before the forward pass that runs inside; what is alone is left to its layer.

    Values and gradients are the same bit for bit, but that a layer which is called several times is quantized once, and
    the gradients of its calls are added up before and not after they pass the quantizer. On a GPU a copy of the joined
    weights is kept for the backward pass. Not for a model that is compiled, whose graph would be another in each pass,
    and not for one that checkpoints its activations, which runs again without this.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, MPQLinear)]
    given = [*_weights(layers), *_biases(layers), *_norms(model)]
    try:
        for module, name, function in given:
            vars(module)[name] = function
        yield
    finally:
        for module, name, _ in given:
            vars(module).pop(name, None)


Given = tuple[nn.Module, str, Callable]


def _weights(layers: list[MPQLinear]) -> Iterator[Given]:
    """What stands in for `coded_weight` of the layers that are not alone."""
    alike: dict = {}
    for layer in layers:
        key = None if "quantized_weight" in vars(layer) else joinable(layer.program)
        if key is not None:
            alike.setdefault((key, layer.weight.dtype), []).append(layer)
    for several in alike.values():
        for part in _batches(several):
            programs: list[WeightProgram] = [layer.program for layer in part]
            found = joined_weights(programs, [layer.weight.float() for layer in part])
            yield from ((layer, "coded_weight", _always(weight)) for layer, weight in zip(part, found))


def _batches(layers: list[MPQLinear]) -> Iterator[list[MPQLinear]]:
    """Layers in order, as many together as one call takes; none alone."""
    most, part = most_together(layers[0].weight.device), []
    for layer in layers:
        if part and sum(one.weight.numel() for one in part) + layer.weight.numel() > most:
            yield from [part] if len(part) > 1 else []
            part = []
        part.append(layer)
    yield from [part] if len(part) > 1 else []


def _biases(layers: list[MPQLinear]) -> Iterator[Given]:
    alike: dict = {}
    for layer in layers:
        if layer.bias is not None:
            alike.setdefault((layer.spec.float_dtype, layer.bias.dtype, layer.bias.device), []).append(layer)
    for (dtype, *_), several in alike.items():
        seam = Seam([len(layer.bias) for layer in several])
        biases, live = seam.join([layer.bias for layer in several]), torch.cat([layer.live_rows for layer in several])
        found = seam.split(to_stored_type(biases, getattr(torch, dtype)) * live)
        yield from ((layer, "stored_bias", _always(bias)) for layer, bias in zip(several, found))


def _norms(model: nn.Module) -> Iterator[Given]:
    """What stands in for `affine` of norms with one set of parameters."""
    alike: dict = {}
    for norm in model.modules():
        if isinstance(norm, MPQLayerNorm) and not norm.precisions[1:] and norm.weight.dim() == 1:
            alike.setdefault((norm.float_dtype, norm.weight.dtype, norm.weight.device), []).append(norm)
    for (dtype, *_), norms in alike.items():
        every = [one for norm in norms for one in (norm.weight, norm.bias) if one is not None]
        seam = Seam([len(one) for one in every])
        found = iter(seam.split(to_stored_type(seam.join(every), getattr(torch, dtype))))
        for norm in norms:
            pair = next(found), None if norm.bias is None else next(found)
            yield norm, "affine", _always(pair)


def _always(value: Tensor | tuple) -> Callable:
    return lambda *_: value
