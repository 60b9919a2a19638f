"""The gates that a search moves."""

from torch import nn

from ...core import PrecisionSpace
from ...nn.walk import matrices
from ...weights.gates import SoftmaxGate


def open_gates(space: PrecisionSpace, model: nn.Module) -> dict[str, SoftmaxGate]:
    """Every open gate of `model`, by matrix name.

    Raises:
        ValueError: when nothing is open, or an open gate is no mixture.
    """
    layers = {name: layer for name, layer in matrices(model) if layer.program.gate.searching}
    gates = {name: layer.program.gate for name, layer in layers.items() if space.weights[name].bits is None}
    if not gates:
        raise ValueError("there is nothing to search: give several candidates, such as MPQConfig(bits=(2, 4, 8))")
    other = sorted({type(gate).__name__ for gate in gates.values() if not isinstance(gate, SoftmaxGate)})
    if other:
        raise ValueError(f"only softmax and Gumbel gates can be searched like this, not {', '.join(other)}; choose "
                         "MPQConfig(gate='softmax')")  # fmt: skip
    return gates
