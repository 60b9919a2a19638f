"""The gates that a search moves."""

from collections.abc import Mapping

from torch import nn

from ...core import PrecisionSpace
from ...nn.walk import gates, matrices
from ...weights.gates import Gate


def open_gates(space: PrecisionSpace, model: nn.Module) -> dict[str, Gate]:
    """Every open gate of `model`, by its name in `space.open_choices`; raises ValueError when nothing is open."""
    found, choices = gates(model), space.open_choices
    searching = {name: gate for name, gate in found.items() if gate.searching and name in choices}
    if not searching:
        raise ValueError("there is nothing to search: give several candidates, such as MPQConfig(bits=(2, 4, 8))")
    return searching


def set_plane_temperatures(model: nn.Module, gates: Mapping[str, Gate], temperature: float) -> None:
    """Set the temperature of the bit planes that gates, by the name of each, select."""
    for name, layer in matrices(model):
        if name in gates and gates[name].selects_planes:
            layer.program.source.set_temperature(temperature)
