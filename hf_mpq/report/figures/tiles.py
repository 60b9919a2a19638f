"""Pictures of many small matrices: each one folded into a tile, the layers' tiles below each other."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, sqrt

import numpy as np


def fold(values: np.ndarray, lines: int) -> np.ma.MaskedArray:
    """`(count,)` as `lines` lines from left to right; what is left of the last one is masked."""
    width = ceil(len(values) / lines)
    tile = np.ma.masked_all(lines * width, dtype=values.dtype)
    tile[: len(values)] = values
    return tile.reshape(lines, width)


def fold_square(values: np.ndarray, aspect: float) -> np.ma.MaskedArray:
    """`(count,)` folded so that its cells are about square in a space `aspect` times as wide as high."""
    return fold(values, max(round(sqrt(len(values) / aspect)), 1))


def gap_of(lines: int) -> int:
    """Empty lines between tiles of so many."""
    return max(lines // 6, 1)


def stack(tiles: Mapping[str, np.ma.MaskedArray], layers: list[str], lines: int) -> np.ma.MaskedArray:
    """Tiles of `lines` lines each, one for each layer, below each other; layers without one stay empty."""
    step, width = lines + gap_of(lines), max(tile.shape[1] for tile in tiles.values())
    dtype = next(iter(tiles.values())).dtype
    image = np.ma.masked_all((len(layers) * step - gap_of(lines), width), dtype=dtype)
    for number, layer in enumerate(layers):
        if layer in tiles:
            tile = tiles[layer]
            image[number * step : number * step + lines, : tile.shape[1]] = tile
    return image


def layer_ticks(count: int, lines: int) -> list[float]:
    """The middle of each layer's tile."""
    step = lines + gap_of(lines)
    return [number * step + (lines - 1) / 2 for number in range(count)]
