"""Weights made up for what a mixture with 0 bits takes away."""

import torch
from torch import nn

from ...nn.matrix import QuantizedMatrix
from ...nn.walk import matrices
from ...weights.gates import Gate


@torch.no_grad()
def compensate_pruned_share(model: nn.Module) -> None:
    """Divide each open matrix by the share of its mixture that is not 0 bits, in place, and calibrate it again.

    The mixture `sum_p g_p Q_p(W)` then starts near W instead of below it (PLiNIO). The weights shrink back in training,
    as the gates become sure.

    Raises:
        ValueError: when a weight is not a float master, which alone can be scaled.
    """
    for name, layer in matrices(model):
        gate = layer.program.gate
        if gate.searching and 0 in gate.candidates:
            _compensate(name, layer, gate)


def _compensate(name: str, layer: QuantizedMatrix, gate: Gate) -> None:
    if layer.program.source.owns_weight or len(layer.program.transforms):
        raise ValueError(f"{name}: only a plain float weight can make up for 0 bits; leave compensate_pruned=False")
    layout = layer.program.layout
    kept = gate.shares()[:, gate.candidates.index(0) + 1 :].sum(1)  # (groups,)
    lines = layout.expand(kept)
    layer.weight.div_((lines.unsqueeze(1) if layout.axis == 0 else lines.unsqueeze(0)).to(layer.weight.dtype))
    layer.calibrate()
