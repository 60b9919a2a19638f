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


def bin_shares(bins: Tensor, count: int, free: Tensor | None = None) -> Tensor:
    """One over how many weights are in the bin of each, as float32 of the same shape; 0 for what is in none.

    Args:
        bins: whole numbers below `count`.
        free: what is in a bin; None for all.
    """
    sizes = torch.bincount(bins.flatten() if free is None else bins[free], minlength=count)
    shares = (1.0 / sizes.clamp(min=1)).to(torch.float32).index_select(0, bins.flatten()).view_as(bins)
    return shares if free is None else shares * free


def _of_layer(layer: QuantizedMatrix) -> Tensor:
    """A scalar: over the bins of a sub-group the sum of the means of `(value - level)^2`, which are `(mean - level)^2`
    and the variance; the mean over the sub-groups."""
    weight = layer.float_weight()
    levels, shares = _levels_and_shares(layer, weight.detach())
    lines = layer.program.layout.lines(weight)
    return (shares * (lines - levels).square()).sum() / layer.program.layout.count


@torch.no_grad()
def _levels_and_shares(layer: QuantizedMatrix, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Level of each weight, and one over the size of its bin, 0 where it is in none; both `(lines, length)`."""
    program = layer.program
    layout, bits, keep = program.layout, program.gate.derive(), program.keep()
    line_bits = layout.expand(bits)
    free = None if keep is None else layout.lines(keep.expand_as(weight))
    found: tuple[Tensor, Tensor] | None = None
    for precision in sorted(set(bits.tolist()) - {0}):
        levels, bins = _bins(layer, weight, precision)
        of_lines = (line_bits == precision).unsqueeze(1)
        count = layout.count * 2**precision
        if of_lines.all():
            return levels, bin_shares(bins, count, free)
        shares = bin_shares(bins, count, of_lines.expand_as(levels) if free is None else of_lines & free)
        found = (levels, shares) if found is None else (torch.where(of_lines, levels, found[0]), found[1] + shares)
    return (torch.zeros_like(layout.lines(weight)),) * 2 if found is None else found


def _bins(layer: QuantizedMatrix, weight: Tensor, precision: int) -> tuple[Tensor, Tensor]:
    """Level of each weight and its bin, both `(lines, length)`."""
    quantizer, layout = layer.program.quantizer, layer.program.layout
    codes, floats = quantizer.encode(weight, precision)
    levels = ENCODINGS[quantizer.encoding].decode(codes, layout.expand(floats), precision, layer.spec.nested)
    first = (layout.index(weight.device) * 2**precision).to(torch.int32)
    return levels, codes + first.unsqueeze(1)
