"""Biases that make the mean outputs of each layer those of the float model."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..nn import MPQLinear
from ..nn.running import evaluating
from .checks import check_decided, check_examples
from .waves import Observation, all_waves


@torch.no_grad()
def correct_biases(
    model: nn.Module,
    reference: nn.Module,
    batches: Sequence[Mapping],
    weighting: str = "relative",
    progress: bool = False,
) -> nn.Module:
    """Add to the bias of every quantized linear layer, in place, what its outputs lack on average over the real tokens,
    layer after layer (Nagel et al., "Data-Free Quantization", ICCV 2019, section 4.2, with the means observed).

    Each layer is compared with the float layer in the float model, so that shifts from earlier layers are made up for
    too. A few tokens may have outputs that are larger than all others by far, and miss most; the plain mean would then
    shift every token by their error and harm the model, because normalisation takes that size out of them again. So
    tokens count by one over their squared norm unless `weighting` says otherwise.

    Rows that are folded away keep no bias; pruned rows that are not folded give the float mean.

    Args:
        model: trainable, every gate decided; rounded already, or not.
        reference: the float model it was made from; left as it is.
        batches: keyword arguments of forward, as tensors; labels in them are not used.
        weighting: `"relative"`, or `"plain"` for means over the tokens as they are (the paper's).
        progress: show a progress bar.

    Returns:
        The model.

    Raises:
        ValueError: when there are no batches, `weighting` is unknown, or a precision is still searched.
    """
    if weighting not in ("relative", "plain"):
        raise ValueError(f"weighting must be 'relative' or 'plain', got {weighting!r}")
    check_examples(batches)
    check_decided(model)
    with evaluating(model, reference):
        for wave in all_waves(model, reference, batches, "correcting biases", progress):
            layers = {name: layer for name, layer in wave.layers.items() if layer.bias is not None}
            missing, weights = dict.fromkeys(layers, 0.0), dict.fromkeys(layers, 0.0)
            for name, seen in wave.observations(layers):
                weight = _token_weights(seen, weighting)
                missing[name] = missing[name] + weight @ (seen.wanted.double() - seen.outputs.double())
                weights[name] += float(weight.sum())
            for name, layer in layers.items():
                if weights[name]:
                    _shift(layer, missing[name] / weights[name])
    return model


def _token_weights(seen: Observation, weighting: str) -> Tensor:
    """`(tokens,)` float64"""
    squares = seen.wanted.double().square().sum(1)
    return torch.ones_like(squares) if weighting == "plain" else 1 / squares.clamp(min=1e-12)


def _shift(layer: MPQLinear, missing: Tensor) -> None:
    layer.bias += (missing * layer.live_rows).to(layer.bias.dtype)
