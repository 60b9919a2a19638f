"""The map of bits in a terminal: digits on colours, so that it reads without colours too."""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from rich.columns import Columns
from rich.style import Style
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from torch import nn

    from ..report.figures.group_bits import BlockBits

NARROWEST, WIDEST = 4, 32
"""Characters for one matrix."""
LABEL = 9
"""Columns that the number of a layer and the table's frame take."""


def strip(bits: np.ndarray, width: int) -> Text:
    """`width` characters for the lines of a matrix, in order, each with the commonest bits of its share."""
    text = Text()
    for part in np.array_split(bits, min(width, len(bits))):
        common = Counter(part.tolist()).most_common(1)[0][0]
        text.append(character(common), style_of(common))
    return text


def character(bits: int) -> str:
    """A digit; a dot for pruned, f for float."""
    return "·" if bits == 0 else "f" if bits > 8 else str(bits)


def style_of(bits: int) -> Style:
    """The colour that these bits have in pictures on a dark page too, with ink that can be read on it."""
    from ..report.figures.theme import DARK

    colour = DARK.bit_colours([bits])[0]
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return Style(color="black" if 299 * red + 587 * green + 114 * blue > 110_000 else "bright_white", bgcolor=colour)


def layer_map(model: "nn.Module", width: int) -> Table:
    """A row for each encoder layer, a column for each kind of matrix."""
    layers: dict[str, dict[str, BlockBits]] = {}
    for part in _blocks(model):
        if part.block.layer is not None:
            layers.setdefault(part.block.layer, {})[part.block.label] = part
    labels = list(dict.fromkeys(label for of_layer in layers.values() for label in of_layer))
    each = max(min((width - LABEL) // max(len(labels), 1) - 3, WIDEST), NARROWEST)
    heads = getattr(model.config, "num_attention_heads", 1)
    table = Table("layer", *labels, title=f"{type(model).__name__}: bits of the encoder")
    for number, of_layer in enumerate(layers.values()):
        parts = (of_layer.get(label) for label in labels)
        cells = ("" if part is None else strip(part.bits, _width(part, each, heads)) for part in parts)
        table.add_row(str(number), *cells)
    return table


def _width(part: "BlockBits", most: int, heads: int) -> int:
    """At most so many characters; for rows of heads as many for each head, where there is room for one."""
    return most - most % heads if part.block.attended and most >= heads else most


def outside_map(model: "nn.Module", width: int) -> Table:
    """A row for each table and projection around the encoder."""
    parts = [part for part in _blocks(model) if part.block.layer is None]
    longest = max((len(part.block.label) for part in parts), default=0)
    table = Table("around it", "bits")
    for part in parts:
        table.add_row(part.block.label, strip(part.bits, max(width - longest - 7, NARROWEST)))
    return table


def legend(model: "nn.Module") -> Columns:
    """Every precision that is there, with its share of the weights."""
    weights: Counter[int] = Counter()
    for part in _blocks(model):
        for bits, count in zip(*np.unique(part.bits, return_counts=True)):
            weights[int(bits)] += int(count) * part.line_length
    items = [Text("of all weights:")]
    for bits, count in sorted(weights.items()):
        word = "pruned" if bits == 0 else "float" if bits > 8 else f"{bits} bits"
        share = Text(f" {character(bits)} ", style_of(bits))
        items.append(Text.assemble(share, f" {word} {count / weights.total():.1%}"))
    return Columns(items)


def matrix_table(model: "nn.Module") -> Table:
    """A line for each matrix: shape, sub-groups, mean bits, how many sub-groups have which, and those of its input."""
    from .. import assignment_of
    from ..nn.matrix import QuantizedMatrix
    from ..nn.packed import PackedMatrix
    from ..nn.precision import lowered_precisions
    from ..nn.walk import matrices

    table = Table("matrix", "shape", "sub-groups", "mean bits", "sub-groups at each precision", "input")
    assignment, used = assignment_of(model), lowered_precisions(model)
    for name, module in matrices(model, (QuantizedMatrix, PackedMatrix)):
        layout, one = module.storage().layout, assignment.matrices[name]
        mean = np.average(one.bits, weights=layout.sizes)
        counts = "  ".join(f"{count} at {bits}" for bits, count in one.histogram().items())
        counts += f", used at {used[name]}" if name in used else ""
        shape, bits = f"{layout.shape[0]} x {layout.shape[1]}", str(assignment.activation_bits.get(name, ""))
        table.add_row(name, shape, str(layout.count), f"{mean:.2f}", counts, bits)
    return table


def _blocks(model: "nn.Module") -> "list[BlockBits]":
    from ..report.figures.group_bits import block_bits

    return block_bits(model)
