"""The gates that a search moves."""

from torch import nn

from ...core import PrecisionSpace
from ...nn.walk import gates
from ...weights.gates import Gate


def open_gates(space: PrecisionSpace, model: nn.Module) -> dict[str, Gate]:
    """Every open gate of `model`, by its name in `space.open_choices`; raises ValueError when nothing is open."""
    found, choices = gates(model), space.open_choices
    searching = {name: gate for name, gate in found.items() if gate.searching and name in choices}
    if not searching:
        raise ValueError("there is nothing to search: give several candidates, such as MPQConfig(bits=(2, 4, 8))")
    return searching
