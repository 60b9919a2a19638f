"""The bits of every sub-group of every matrix in one picture."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from ..measures.loading import loaded
from ..measures.size_report import size_report
from .group_bits import BlockBits, block_bits
from .theme import FLOAT, PRUNED, Theme, new_figure, themed
from .tiles import fold, fold_square, layer_ticks, stack

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

WIDTH, LAYER_HEIGHT, TABLES_HEIGHT = 11.0, 0.55, 1.5
"""Inches."""
LINES = 12
"""Of a tile where the model has no heads to count."""


def bit_map(model: nn.Module | str | Path, dark: bool = False, title: str | None = None) -> Figure:
    """Draw the bits of every sub-group of a quantized model, packed or trainable, or of the one in a folder.

    Above, one row for each encoder layer and one column for each kind of matrix. A cell is an output neuron (an input
    feature where columns are cut); a matrix is folded into as many lines as there are heads, so that each line of
    query, key and value is one head. Below, the tables and projections, row after row. Open gates show their likeliest
    bits; matrices in scope that stay float are grey.

    Args:
        model: of any family.
        dark: for a dark page.
        title: above; by default class, bits and size of the model.

    Raises:
        ValueError: when nothing in the model is quantized.
    """
    model = loaded(model)
    parts, lines = block_bits(model), getattr(model.config, "num_attention_heads", None) or LINES
    inside = [part for part in parts if part.block.layer is not None]
    outside = [part for part in parts if part.block.layer is None]
    layers = list(dict.fromkeys(part.block.layer for part in inside))
    heights = [max(LAYER_HEIGHT * len(layers), 1.0), TABLES_HEIGHT if outside else 0.0]
    with themed(dark) as theme:
        figure = new_figure(WIDTH, sum(heights) + 1.1)
        figure.suptitle(_title(model) if title is None else title)
        above, *below = figure.subfigures(
            2 if outside else 1, 1, height_ratios=heights[: 2 if outside else 1], squeeze=False
        ).flat
        _draw_layers(above, inside, layers, lines, theme)
        if below:
            _draw_tables(below[0], outside, theme)
        _legend(figure, parts, theme)
    return figure


def _title(model: nn.Module) -> str:
    report = size_report(model)
    return (
        f"{type(model).__name__}: {report.used_bits:.2f} bits per encoder weight, "
        f"{report.total_bytes / 1e6:.1f} MB on disk"
    )


def _draw_layers(figure: SubFigure, parts: Sequence[BlockBits], layers: list[str], lines: int, theme: Theme) -> None:
    kinds: dict[str, dict[str, BlockBits]] = defaultdict(dict)
    for part in parts:
        kinds[part.block.label][part.block.layer] = part
    images = {
        kind: stack({layer: fold(part.bits, lines) for layer, part in of_kind.items()}, layers, lines)
        for kind, of_kind in kinds.items()
    }
    widths = [image.shape[1] for image in images.values()]
    ratios = [max(width, sum(widths) / 12) for width in widths]
    axes = figure.subplots(1, len(images), width_ratios=ratios, squeeze=False)[0]
    for axis, (kind, image) in zip(axes, images.items()):
        one = next(iter(kinds[kind].values()))
        _show(axis, image, theme, kind, _caption(one, lines))
    axes[0].set_yticks(layer_ticks(len(layers), lines), [str(number) for number in range(len(layers))])
    axes[0].set_ylabel("layer")


def _caption(part: BlockBits, lines: int) -> str:
    count = len(part.bits)
    if part.block.attended and part.axis == 0:
        return f"{lines} heads of {count // lines}"
    return f"{count} {'columns' if part.axis else 'rows'}"


def _draw_tables(figure: SubFigure, parts: Sequence[BlockBits], theme: Theme) -> None:
    parts = sorted(parts, key=lambda part: -len(part.bits))
    total = sum(len(part.bits) for part in parts)
    ratios = [max(len(part.bits), total / 7) for part in parts]
    axes = figure.subplots(1, len(parts), width_ratios=ratios, squeeze=False)[0]
    for axis, part, ratio in zip(axes, parts, ratios):
        aspect = WIDTH * ratio / sum(ratios) / (TABLES_HEIGHT - 0.6)
        title = part.block.label.replace("_", " ").replace(" embeddings", "\nembeddings")
        _show(axis, fold_square(part.bits, aspect), theme, title, _caption(part, 1))


def _show(axis: Axes, image: np.ma.MaskedArray, theme: Theme, title: str, caption: str) -> None:
    from matplotlib.colors import BoundaryNorm, ListedColormap

    precisions = [*range(9), FLOAT]
    colours = ListedColormap(theme.bit_colours(precisions)).with_extremes(bad=theme.page)
    norm = BoundaryNorm([-0.5, *(bits + 0.5 for bits in precisions)], len(precisions))
    axis.imshow(image, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
    axis.set(title=title, xlabel=caption, xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def _legend(figure: Figure, parts: Sequence[BlockBits], theme: Theme) -> None:
    """Every precision that is there, with its share of the encoder's weights."""
    from matplotlib.patches import Patch

    present = sorted({int(bits) for part in parts for bits in np.unique(part.bits)})
    weights = Counter()
    for part in parts:
        if part.block.layer is not None:
            weights.update(
                {
                    int(bits): int(count) * part.line_length
                    for bits, count in zip(*np.unique(part.bits, return_counts=True))
                }
            )
    total = max(sum(weights.values()), 1)
    labels = {PRUNED: "pruned", FLOAT: "float", 1: "1 bit"}
    handles = [
        Patch(color=colour, label=f"{labels.get(bits, f'{bits} bits')} ({weights[bits] / total:.0%})")
        for bits, colour in zip(present, theme.bit_colours(present))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), title="share of encoder weights")
