"""The gates that a search moves."""

from torch import nn

from ...core import PrecisionSpace
from ...nn.walk import matrices
from ...weights.gates import Gate


def open_gates(space: PrecisionSpace, model: nn.Module) -> dict[str, Gate]:
    """Every open gate of `model`, by matrix name; raises ValueError when nothing is open."""
    layers = {name: layer for name, layer in matrices(model) if layer.program.gate.searching}
    gates = {name: layer.program.gate for name, layer in layers.items() if space.weights[name].bits is None}
    if not gates:
        raise ValueError("there is nothing to search: give several candidates, such as MPQConfig(bits=(2, 4, 8))")
    return gates
