"""What keeping a row costs in the matrix that reads it: prices that the sub-groups taken alone do not show."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ...core import Link, PrecisionSpace
from ...cost import CostModel
from ...cost.exact import ExactMatrix


def reader_prices(
    space: PrecisionSpace, cost: CostModel, matrices: Mapping[str, ExactMatrix]
) -> dict[str, NDArray[np.float64]]:
    """What the columns that read each sub-group's rows cost now: producer name to `(groups,)`.

    Only rows that can go alone have such a price: those of pointwise and value links.
    """
    prices = {name: np.zeros(spec.layout.count) for name, spec in space.weights.items() if spec.bits is None}
    for link in space.links:
        reader = link.consumer if link.kind in ("pointwise", "value") else None
        if reader is not None and reader in matrices and link.blocks[0].name in prices:
            prices[link.blocks[0].name] += _rows(space, link) * _column_price(cost, reader, matrices)
    return prices


def _rows(space: PrecisionSpace, link: Link) -> NDArray[np.int64]:
    """Rows of the link's block in each sub-group; none where the sub-groups are columns."""
    block, layout = link.blocks[0], space.weights[link.blocks[0].name].layout
    if layout.axis == 1:
        return np.zeros(layout.count, int)
    return np.bincount(layout.index().numpy()[block.start : block.start + block.count], minlength=layout.count)


def _column_price(cost: CostModel, name: str, matrices: Mapping[str, ExactMatrix]) -> float:
    """What one input column of the matrix `name` costs at its present bits, as the mean over the last eight."""
    matrix = matrices[name]
    candidates = np.array(matrix.spec.candidates)
    if not np.isin(list(matrix.lines), candidates).all() or matrix.live_columns < 8 or matrix.layout.axis == 1:
        return 0.0
    chosen = candidates.searchsorted(matrix.bits)
    every = np.arange(len(chosen))
    table = lambda less: cost.table(name, matrix.live_columns - less, matrix.activation_bits)  # noqa: E731
    more, fewer = (table(less).numpy()[every, chosen].sum() for less in (0, 8))
    return float(more - fewer) / 8
