"""The verb: shift and scale the inputs of a quantized model's layers by a rule."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..core import Written, name_and_options
from ..nn import MPQLinear, relative_name
from ..nn.calibration import observe_ranges
from .base import OUTLIERS
from .inputs import record_inputs


@torch.no_grad()
def suppress_outliers(
    model: nn.Module, batches: Sequence[Mapping], rule: Written = "os+", tokens: int = 256, **options
) -> nn.Module:
    """Give the layers whose inputs are quantized a shift and a scale for each input channel, in place.

    The float function stays as it was: weights and biases make up for it. The scales of the weights are set anew, and
    so are ranges of inputs that are remembered, from the same batches; so this comes before any training or rounding
    of the quantized model. Each channel takes 2 or 4 bytes more, which `size_report` counts; to make room for
    them in a budget, name the layers in `MPQConfig.input_affine` before the assignment is chosen. Layers for which the
    rule finds nothing lose what was set aside.

    Args:
        model: trainable, with fixed gates.
        batches: keyword arguments of forward, as tensors; labels are not used.
        rule: part: `"os+"`, `"gamma"`, or one with options.
        tokens: inputs of each layer that a rule may look at, beside the ranges of all.
        options: of the rule, where the part has none.

    Returns:
        The model.

    Raises:
        ValueError: when the model is not trainable, its gates are open, its ranges can no longer be set, or there are
            no batches; it is then as it was.
    """
    name, given = name_and_options("rule", rule, options)
    chosen = OUTLIERS.make(name, options=given)
    layers = _layers(model)
    if not batches:
        raise ValueError("outliers are found in example batches, and none were given")
    changed = []
    for group in record_inputs(model, layers, batches, tokens):
        affine = chosen.affine(group)
        for layer in group.layers.values():
            if affine is not None:
                layer.set_input_affine(*affine)
                changed.append(layer)
            elif layer.spec.affine:
                layer.remove_input_affine()
                changed.append(layer)
    for layer in changed:
        layer.calibrate()
    observe_ranges(model, [layer.input_quantizer for layer in changed], batches)
    _tell_config(model)
    return model


def _layers(model: nn.Module) -> dict[str, MPQLinear]:
    """Relative name and layer of every linear layer with a quantized input; refuses models that cannot change."""
    linear = {relative_name(model, n): m for n, m in model.named_modules() if isinstance(m, MPQLinear)}
    if not linear:
        raise ValueError("this model has no trainable quantized layers; quantize it, or unpack it first")
    layers = {name: layer for name, layer in linear.items() if layer.input_quantizer is not None}
    for name, layer in layers.items():
        if layer.is_open:
            raise ValueError(f"{name}: its precision is still searched; call hf_mpq.fix(model) first")
        if layer.input_quantizer.packed_form:
            raise ValueError(f"{name}: the range of its input is fixed for good; start again from the trained model")
        if layer.program.source.owns_weight or len(layer.program.transforms):
            raise ValueError(f"{name}: its float weight is not its own parameter, so its input cannot be scaled")
    return layers


def _tell_config(model: nn.Module) -> None:
    """Name the layers in the config, so that the model loads again."""
    model.config.quantization_config.input_affine = {
        relative_name(model, name): list(layer.spec.affine)
        for name, layer in model.named_modules()
        if isinstance(layer, MPQLinear) and layer.spec.affine
    }
