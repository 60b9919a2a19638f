"""What rounding does to the weights."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ...nn.matrix import QuantizedMatrix
from .base import OBJECTIVES
from .weights import Layers, WeightObjective


@OBJECTIVES.register("quantization-error")
class QuantizationError(WeightObjective):
    """The quantization-error regulariser of SDQ (Huang et al., ICML 2022): the expected squared rounding error of each
    matrix over the sum of its squared weights, summed over matrices. While precisions are searched, the error of each
    candidate counts by the probability that its gate gives it, so that gates learn what a lower one does to the
    weights, in small matrices as much as in large ones.

    Reconstructed: the paper's formula is not public. Levels have no gradient; weights move to them.
    """

    def of_weights(self, layers: Layers) -> Tensor:
        return torch.stack([_of_layer(layer) for _, layer in layers]).sum()


def _of_layer(layer: QuantizedMatrix) -> Tensor:
    """Expected squared error over the squared weights, a scalar."""
    program, weight = layer.program, layer.float_weight()
    total = weight.new_zeros(())
    for share, value in _choices(layer, weight.detach()):
        errors = program.layout.reduce((weight - value).square(), "sum")  # (groups,)
        total = total + (share * errors).sum()
    return total / weight.detach().square().sum().clamp(min=torch.finfo(weight.dtype).tiny)


def _choices(layer: QuantizedMatrix, weight: Tensor) -> Iterator[tuple[Tensor | float, Tensor]]:
    """What the gate may use: the probability in each sub-group, `(groups,)`, and the rounded weight without gradient,
    `(out, in)`. Of a gate without candidates it is what a forward pass uses."""
    program = layer.program
    shares = program.gate.usage().probabilities
    if shares is None:
        yield 1.0, program(layer.weight.detach().float()).detach()
        return
    for bits, share in zip(program.gate.candidates, shares.unbind(1)):
        if share.detach().any():
            yield share, _rounded(layer, weight, bits)


@torch.no_grad()
def _rounded(layer: QuantizedMatrix, weight: Tensor, bits: int) -> Tensor:
    """The weight at a precision, with what a mask holds at zero: `(out, in)`."""
    if bits == 0:
        return torch.zeros_like(weight)
    value, keep = layer.program.quantizer.candidate(weight, bits), layer.program.keep()
    return value if keep is None else value * keep
