"""What is pruned: sub-groups, and what of it is gone for good."""

from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

if TYPE_CHECKING:
    from torch import nn


def pruned_parts(model: "nn.Module") -> list[dict]:
    """One entry for each encoder layer that lost something: `layer`, `rows` and `heads` as `[pruned, all]`, and the
    share of its `weights`."""
    from ..report.figures.group_bits import block_bits

    layers: dict[str, list] = {}
    for part in block_bits(model):
        if part.block.layer is not None:
            layers.setdefault(part.block.layer, []).append(part)
    found = []
    for name, parts in layers.items():
        gone = sum(int((part.bits == 0).sum()) * part.line_length for part in parts)
        if gone:
            whole = sum(len(part.bits) * part.line_length for part in parts)
            found.append({"layer": name, "weights": gone / whole, "rows": _rows(parts), "heads": _heads(parts, model)})
    return found


def _rows(parts: list) -> list[int]:
    """Feed-forward rows that are pruned, of all."""
    bits = [part.bits for part in parts if part.block.label == "up" and part.axis == 0]
    return [int(sum((one == 0).sum() for one in bits)), int(sum(map(len, bits)))]


def _heads(parts: list, model: "nn.Module") -> list[int]:
    """Heads of which every value row is pruned, of all."""
    heads = getattr(model.config, "num_attention_heads", 0)
    values = [part.bits for part in parts if part.block.label == "value" and part.axis == 0]
    gone = sum(int((part == 0).all()) for one in values for part in np.array_split(one, heads))
    return [gone, heads * len(values)]


def pruned_table(parts: list[dict]) -> Table | str:
    """The entries of `pruned_parts` for people."""
    if not parts:
        return "nothing is pruned"
    table = Table("layer", "pruned weights", "feed-forward rows", "heads", title="pruned")
    for part in parts:
        counts = (f"{gone} of {whole}" for gone, whole in (part["rows"], part["heads"]))
        table.add_row(part["layer"], f"{part['weights']:.1%}", *counts)
    return table
