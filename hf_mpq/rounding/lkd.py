"""ZeroQuant's layer-by-layer knowledge distillation."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..nn import MPQLayerNorm
from ..nn.matrix import QuantizedMatrix
from ..nn.running import evaluating
from .base import ROUNDERS, Rounder
from .block_error import block_error, draw_calls, split_batches
from .checks import check_decided, check_examples, check_float32
from .walk import BlockStep, walk_blocks


@ROUNDERS.register("lkd")
class LayerwiseDistillation(Rounder):
    """Trains each encoder layer alone, with fake quantization, on the float model's hidden states: mean squared error
    to what the float layer makes of them (Yao et al., "ZeroQuant", NeurIPS 2022, section 4.3).

    Float weights, biases and normalisations move; scales, and ranges of activations, stay as they are, because the
    weights move much less than a step. The masters stay float, and are rounded to nearest in forward and when packed.

    Args:
        lr: of Adam.
        steps: in each layer.
        batch_size: sequences in a step.
        seed: of the batches.
        progress: show a progress bar.
    """

    def __init__(self, lr: float = 5e-6, steps: int = 100, batch_size: int = 32, seed: int = 0, progress: bool = False):
        self.lr, self.steps, self.batch_size, self.seed, self.progress = lr, steps, batch_size, seed, progress

    def round(self, model: nn.Module, reference: nn.Module, batches: Sequence[Mapping]) -> None:
        """As the contract says, but for the masters, which lie on no grid.

        Raises:
            ValueError: when there are no batches, a precision is still searched, or the model is of half precision.
        """
        check_examples(batches)
        check_decided(model)
        check_float32(model)
        generator = torch.Generator().manual_seed(self.seed)
        parts = split_batches(batches, self.batch_size, generator)
        with evaluating(model, reference):
            for step in walk_blocks(model, reference, parts, "distilling", self.progress):
                self._distil(step, generator)

    @torch.enable_grad()
    def _distil(self, step: BlockStep, generator: torch.Generator) -> None:
        parameters = trained_parameters(step.block)
        found = [(parameter, parameter.requires_grad, parameter.grad) for parameter in parameters]
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.Adam(parameters, lr=self.lr)
        for _ in range(self.steps if parameters and len(step.calls) else 0):
            calls = draw_calls(step.calls, self.batch_size, generator)
            error = block_error(step, calls, step.wanted.hidden)
            gradients = torch.autograd.grad(error, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients):
                parameter.grad = gradient
            optimizer.step()
        for parameter, required, gradient in found:
            parameter.requires_grad_(required)
            parameter.grad = gradient

    def forward_passes(self, model: nn.Module, batches: Sequence[Mapping]) -> float:
        """A step counts as three passes of two batches."""
        return 4.0 * len(batches) + 6.0 * self.steps


def trained_parameters(block: nn.Module) -> list[nn.Parameter]:
    """Weights and biases of the block's layers and normalisations; no scales, gates or ranges."""
    kinds = (QuantizedMatrix, MPQLayerNorm, nn.Linear, nn.LayerNorm)
    layers = [module for module in block.modules() if isinstance(module, kinds)]
    found = [parameter for layer in layers for parameter in (layer.weight, layer.bias) if parameter is not None]
    return list(dict.fromkeys(found))
