"""Ranges of activations from example batches."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from ..weights import ActivationQuantizer


@torch.no_grad()
def calibrate_activations(model: nn.Module, batches: Iterable[Mapping]) -> None:
    """Run `batches` through the model and set the range of every activation quantizer that keeps one.

    Args:
        batches: keyword arguments of the model's forward, as a data loader yields them.
    """
    quantizers = [module for module in model.modules() if isinstance(module, ActivationQuantizer)]
    for quantizer in quantizers:
        quantizer.reset()
    hooks = [quantizer.register_forward_pre_hook(_widen) for quantizer in quantizers]
    try:
        for batch in batches:
            model(**batch)
    finally:
        for hook in hooks:
            hook.remove()


def _widen(quantizer: ActivationQuantizer, inputs: tuple) -> None:
    quantizer.calibrate(inputs[0].detach())
