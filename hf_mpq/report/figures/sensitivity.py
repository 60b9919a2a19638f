"""How much each choice hurts, as a heat map."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ...core import PrecisionSpace
from ...nn.families import FAMILIES
from .blocks import Block, blocks_of
from .theme import new_figure, themed
from .tiles import layer_ticks, stack

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_COLUMNS = 256
"""Larger matrices show the mean of neighbouring sub-groups."""
WIDTH, LINE_HEIGHT = 11.0, 0.1
OUTSIDE = "tables"


def sensitivity_map(space: PrecisionSpace, scores: Mapping[str, Tensor | np.ndarray], dark: bool = False) -> Figure:
    """Draw the scores of every (sub-group, precision) on one logarithmic scale.

    One row for each encoder layer and one column for each kind of matrix; in it a line for each candidate, fewest bits
    first, and a cell for each sub-group. Tables stand below each other in columns of their own. What is infinite (not
    allowed) or not positive stays empty.

    Args:
        space: that the scores are for.
        scores: name to `(groups, candidates)`, as a scorer gives them; matrices without are left out.
        dark: for a dark page.

    Raises:
        ValueError: when a score does not fit its matrix, or none is positive and finite.
    """
    family = FAMILIES.get(space.architecture.get("config", {}).get("model_type"))
    lines = sorted({bits for name in scores for bits in _spec(space, name).candidates})
    tiles: dict[str, dict[str, np.ma.MaskedArray]] = defaultdict(dict)
    for name, values in scores.items():
        blocks = blocks_of(name, _spec(space, name).layout.shards, family)
        for block, part in zip(blocks, np.split(_checked(space, name, values), len(blocks))):
            tiles[_column(block)][block.layer or block.label] = _tile(part, space.weights[name].candidates, lines)
    positive = np.concatenate([tile.compressed() for column in tiles.values() for tile in column.values()])
    if not len(positive):
        raise ValueError("there is nothing to draw: no score is positive and finite")
    with themed(dark) as theme:
        return _figure(tiles, lines, (positive.min(), positive.max()), theme.colormap().with_extremes(bad=theme.page))


def _spec(space: PrecisionSpace, name: str):
    if name not in space.weights:
        raise ValueError(f"the space has no matrix {name!r}: give the space that the scores were made for")
    return space.weights[name]


def _checked(space: PrecisionSpace, name: str, values: Tensor | np.ndarray) -> np.ndarray:
    table, spec = np.asarray(values, float), space.weights[name]
    if table.shape != (spec.layout.count, len(spec.candidates)):
        raise ValueError(
            f"{name} has {spec.layout.count} sub-groups and {len(spec.candidates)} candidates, its scores "
            f"are {table.shape}"
        )
    return table


def _column(block: Block) -> str:
    return OUTSIDE if block.layer is None else block.label


def _tile(scores: np.ndarray, candidates: tuple[int, ...], lines: list[int]) -> np.ma.MaskedArray:
    """`(groups, candidates)` as `(lines, columns)`: precisions that are no candidates stay empty."""
    parts = np.array_split(scores, min(len(scores), MOST_COLUMNS))
    means = np.array([part.mean(0) for part in parts]).T
    tile = np.ma.masked_all((len(lines), means.shape[1]))
    tile[[lines.index(bits) for bits in candidates]] = means
    return np.ma.masked_where(~np.isfinite(tile.filled(np.inf)) | (tile.filled(0) <= 0), tile)


def _figure(tiles, lines: list[int], limits: tuple[float, float], colours) -> Figure:
    from matplotlib.colors import LogNorm

    low, high = limits
    norm = LogNorm(low, high if high > low else 10 * low)
    heights = {kind: len(column) for kind, column in tiles.items()}
    figure = new_figure(WIDTH, max(heights.values()) * (len(lines) + 1) * LINE_HEIGHT + 1.3)
    axes = figure.subplots(1, len(tiles), squeeze=False)[0]
    for number, (axis, kind) in enumerate(zip(axes, sorted(tiles, key=lambda kind: kind == OUTSIDE))):
        column = tiles[kind] if kind != OUTSIDE else _stretched(tiles[kind])
        layers = list(column)
        picture = axis.imshow(
            stack(column, layers, len(lines)), cmap=colours, norm=norm, aspect="auto", interpolation="nearest"
        )
        axis.set(title=kind, xticks=[], xlabel="sub-groups")
        axis.spines[:].set_visible(False)
        _mark(axis, layers, lines, number == 0 or kind == OUTSIDE, kind == OUTSIDE)
    figure.colorbar(picture, ax=list(axes), label="score: how much it hurts", pad=0.01, aspect=40)
    figure.suptitle("sensitivity of every sub-group at " + ", ".join(map(str, lines)) + " bits, top to bottom")
    return figure


def _stretched(column: Mapping[str, np.ma.MaskedArray]) -> dict[str, np.ma.MaskedArray]:
    """All tiles as wide as the widest."""
    width = max(tile.shape[1] for tile in column.values())
    return {name: tile[:, np.arange(width) * tile.shape[1] // width] for name, tile in column.items()}


def _mark(axis: Axes, layers: list[str], lines: list[int], marked: bool, named: bool) -> None:
    ticks = layer_ticks(len(layers), len(lines))
    labels = [layer.replace("_embeddings", "").replace("_", " ") for layer in layers] if named else range(len(layers))
    axis.set_yticks(ticks if marked else [], labels if marked else [])
    if marked and not named:
        axis.set_ylabel("layer")
