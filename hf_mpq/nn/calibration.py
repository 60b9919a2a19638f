"""Ranges of activations from example batches."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from ..weights import ActivationQuantizer
from .running import evaluating, forward_inputs


@torch.no_grad()
def calibrate_activations(model: nn.Module, batches: Iterable[Mapping]) -> None:
    """Run `batches` through the model in eval mode and set the range of every activation quantizer that keeps one.

    Where none does (dynamic ranges), nothing is run.

    Args:
        batches: keyword arguments of the model's forward, as a data loader yields them; labels are left out.
    """
    quantizers = [module for module in model.modules() if isinstance(module, ActivationQuantizer)]
    observe_ranges(model, quantizers, batches)


@torch.no_grad()
def observe_ranges(model: nn.Module, quantizers: Iterable[ActivationQuantizer], batches: Iterable[Mapping]) -> None:
    """`calibrate_activations` for some of a model's quantizers; the others stay as they are."""
    kept = [one for one in quantizers if type(one).calibrate is not ActivationQuantizer.calibrate]
    for quantizer in kept:
        quantizer.reset()
    hooks = [quantizer.register_forward_pre_hook(_widen) for quantizer in kept]
    try:
        with evaluating(model):
            for batch in batches if kept else ():
                model(**forward_inputs(model, batch))
    finally:
        for hook in hooks:
            hook.remove()


def _widen(quantizer: ActivationQuantizer, inputs: tuple) -> None:
    quantizer.calibrate(inputs[0].detach())
