"""Weights near the levels that they are rounded to."""

import torch
from torch import Tensor

from ...nn.matrix import QuantizedMatrix
from ...weights import ENCODINGS
from .base import OBJECTIVES
from .weights import Layers, WeightObjective


@OBJECTIVES.register("bin-regularisation")
class BinRegularisation(WeightObjective):
    """Bin regularisation (Han et al., ICCV 2021): the sum over bins, the weights that are rounded to one level, of
    `(mean - level)^2 + variance`, with the variance of the population (a single weight has none).

    The levels are the quantizer's own, and have no gradient: weights move to them. What a mask or a folded row holds at
    zero is in no bin. While precisions are searched, a sub-group is binned at its likeliest one; nested codes at their
    highest.

    Ours: where a matrix has many sub-groups, each with levels of its own, their sums are averaged, so that the weight
    of the term means the same for all `groups`. Matrices are summed, as the paper sums layers.
    """

    def of_weights(self, layers: Layers) -> Tensor:
        return torch.stack([_of_layer(layer) for _, layer in layers]).sum()


def bin_errors(values: Tensor, levels: Tensor, bins: Tensor, count: int) -> Tensor:
    """Mean of `(value - level)^2` in each bin, `(count,)`, zero for empty ones: `(mean - level)^2` and the variance.

    Args:
        values, levels: `(weights,)`; all of a bin have the same level.
        bins: `(weights,)` whole numbers below `count`.
    """
    sums = values.new_zeros(count).index_add(0, bins, (values - levels).square())
    return sums / torch.bincount(bins, minlength=count).clamp(min=1)


def _of_layer(layer: QuantizedMatrix) -> Tensor:
    """Sum over the bins of a sub-group, mean over the sub-groups: a scalar."""
    program = layer.program
    weight, bits, keep = layer.float_weight(), program.gate.derive(), program.keep()
    lines, line_bits = program.layout.lines(weight), program.layout.expand(bits)
    free = torch.ones_like(lines, dtype=torch.bool) if keep is None else program.layout.lines(keep.expand_as(weight))
    total = lines.new_zeros(())
    for precision in sorted(set(bits.tolist()) - {0}):
        levels, bins = _bins(layer, weight.detach(), precision)
        chosen = free & (line_bits == precision).unsqueeze(1)
        errors = bin_errors(lines[chosen], levels[chosen], bins[chosen], program.layout.count * 2**precision)
        total = total + errors.sum()
    return total / program.layout.count


@torch.no_grad()
def _bins(layer: QuantizedMatrix, weight: Tensor, precision: int) -> tuple[Tensor, Tensor]:
    """Level of each weight and its bin, both `(lines, length)`."""
    quantizer, layout = layer.program.quantizer, layer.program.layout
    codes, floats = quantizer.encode(weight, precision)
    levels = ENCODINGS[quantizer.encoding].decode(codes, layout.expand(floats), precision, layer.spec.nested)
    return levels, codes + layout.index(weight.device).unsqueeze(1) * 2**precision
