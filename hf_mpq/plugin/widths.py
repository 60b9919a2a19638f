"""Where the width of a matrix is a choice: the first matrix of a feed-forward layer, whose rows the second reads."""

from collections.abc import Mapping

from torch import nn

from ..core import WeightSpec, applies
from ..nn import Family
from ..weights import GATES


def with_widths(chosen: dict, name: str, role: str, family: Family | None) -> dict:
    """A matrix' options, at one precision where a gate for widths has nothing to choose: its rows are no width."""
    if not GATES[chosen["gate"]].sets_width or not isinstance(chosen["bits"], tuple | list):
        return chosen
    if role == "encoder" and (family is None or name.endswith(f".{family.names.up}")):
        return chosen
    return {**chosen, "bits": max(chosen["bits"]), "gate": "fixed", "gate_options": {}}


def check_widths(weights: Mapping[str, WeightSpec], model: nn.Module, family: Family | None) -> None:
    """Raise ValueError where the width of a matrix is open, and what reads its rows is not known, or not quantized by
    rows too."""
    wide = [name for name, spec in weights.items() if GATES[spec.gate].sets_width]
    if not wide:
        return
    if family is None:
        raise ValueError(
            f"gate='width' needs to know what reads the rows of {wide[0]}, and this {type(model).__name__} is of no "
            "known family: choose another gate, or describe the family in hf_mpq/nn/families/table.py"
        )
    if family.names.gate is not None:
        raise ValueError(
            f"gate='width' cannot choose the width of {wide[0]}, whose gate is a matrix of its own and has to "
            f"be as wide: choose another gate for {type(model).__name__}"
        )
    layouts = {name: spec.layout for name, spec in weights.items()}
    links = [link for link in family.links(model) if link.kind in ("pointwise", "gated") and applies(link, layouts)]
    read = {block.name for link in links for block in link.blocks}
    for name in wide:
        if name not in read:
            raise ValueError(
                f"the width of {name} is to be chosen, and what reads its rows is float, or cut by columns: give both "
                "feed-forward matrices bits, and groups that cut rows"
            )
