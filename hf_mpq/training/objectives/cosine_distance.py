"""How far rounding turns the weights."""

import torch
from torch import Tensor

from ...nn.matrix import QuantizedMatrix
from .base import OBJECTIVES
from .weights import Layers, WeightObjective


@OBJECTIVES.register("cosine-distance")
class CosineDistance(WeightObjective):
    """`1 - cos(w, q)` of each sub-group of float weights w and what they are rounded to q: its mean over the sub-groups
    of a matrix that are not zero, summed over matrices. Of unit vectors it is half the squared straight-through bias,
    `||q - w||^2 / 2`, which hyperspherical quantization lessens (Liu et al., 2022; the term is reconstructed).

    Masked weights count as zero. q has no gradient; it is there in float stages too.
    """

    def of_weights(self, layers: Layers) -> Tensor:
        return torch.stack([_of_layer(layer) for _, layer in layers]).sum()


def _of_layer(layer: QuantizedMatrix) -> Tensor:
    """Mean distance of the sub-groups, a scalar."""
    program, weight = layer.program, layer.float_weight()
    with torch.no_grad():
        value, keep = program.quantizer(weight.detach(), program.gate()), program.keep()
        value = value if keep is None else value * keep
    reduce, least = program.layout.reduce, torch.finfo(weight.dtype).tiny
    sizes = reduce(weight.square(), "sum") * reduce(value.square(), "sum")
    used = sizes.detach() > 0
    cosines = reduce(weight * value, "sum") / torch.where(used, sizes, 1.0).clamp(min=least).sqrt()
    return torch.where(used, 1 - cosines, 0.0).sum() / used.sum().clamp(min=1)
