"""Milliseconds of a forward pass, from a table that was measured on this machine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core import BudgetError, Link, PrecisionSpace, Usage
from .base import COSTS, CostModel
from .exact import ExactMatrix
from .expectation import expected_matrices

BATCH, TOKENS = 1, 128


@dataclass(frozen=True)
class LatencyTable:
    """What was measured of one architecture at one shape of input.

    Attributes:
        whole: milliseconds of the model with nothing pruned.
        rows: `(feed-forward rows, milliseconds)` of the model with so many rows left in every layer, ascending.
        heads: `(heads, milliseconds)` likewise.
        layers: that were pruned together.
    """

    whole: float
    rows: tuple[tuple[float, float], ...]
    heads: tuple[tuple[float, float], ...]
    layers: int

    def row_milliseconds(self, left: Tensor) -> Tensor:
        """What one layer takes more or less than a whole one with `left` feed-forward rows, differentiable."""
        return (interpolate(left, self.rows) - self.rows[-1][1]) / self.layers

    def head_milliseconds(self, left: Tensor) -> Tensor:
        """The same for heads."""
        return (interpolate(left, self.heads) - self.heads[-1][1]) / self.layers


def interpolate(x: Tensor, points: tuple[tuple[float, float], ...]) -> Tensor:
    """Straight between `(x, y)` points, and beyond them as between the last two."""
    xs = torch.tensor([point[0] for point in points], dtype=x.dtype, device=x.device)
    ys = torch.tensor([point[1] for point in points], dtype=x.dtype, device=x.device)
    place = torch.bucketize(x.detach(), xs).clamp(1, len(points) - 1)
    slope = (ys[place] - ys[place - 1]) / (xs[place] - xs[place - 1])
    return ys[place - 1] + slope * (x - xs[place - 1])


Measure = Callable[[Mapping[str, Any], int, int], LatencyTable]
_measure: list[Measure] = []


def measured_by(measure: Measure) -> Measure:
    """Decorator of what measures an architecture at a batch and a number of tokens; the last one counts."""
    _measure[:] = [measure]
    return measure


@COSTS.register("latency")
class Latency(CostModel):
    """Milliseconds of one forward pass as `hf_mpq.prepare` runs it here.

    The whole model is measured, unpruned and with fewer feed-forward rows or heads in every layer; a layer with other
    numbers takes what lies between. Products are 8 bits wide whatever the precision of the weights, so 1 to 8 bits take
    the same time: only what can be taken out saves any, feed-forward rows, and heads whose query, key and value are all
    pruned.

    Args:
        space: what may be chosen.
        batch, tokens: of the input.
        table: what was measured; None measures now, or takes what is kept of an earlier measurement.

    Raises:
        BudgetError: when the family of the model is not known, so that nothing can be taken out of it.
    """

    unit: ClassVar[str] = "ms"

    def __init__(self, space: PrecisionSpace, batch: int = BATCH, tokens: int = TOKENS,
                 table: LatencyTable | None = None):  # fmt: skip
        super().__init__(space)
        if table is None and not (space.architecture and space.links):
            raise BudgetError("a budget in ms needs a model of a known family, of which rows and heads can be removed; "
                              "give one in bytes or bits")  # fmt: skip
        self.latencies = _measure[0](space.architecture, batch, tokens) if table is None else table
        self._forward = [link for link in space.links if link.kind in ("pointwise", "gated")]
        self._attention = [(link, _scores_of(link, space.links)) for link in space.links if link.kind == "value"]

    def of_matrices(self, matrices: Mapping[str, ExactMatrix]) -> float:
        rows = {name: matrix.alive.rows.double() for name, matrix in matrices.items()}
        columns = {name: matrix.alive.columns.double() for name, matrix in matrices.items()}
        return float(self._total(rows, columns))

    def expected(self, usages: Mapping[str, Usage]) -> Tensor:
        """Equal to `of` for one-hot usages. A head counts by its likeliest row."""
        matrices = expected_matrices(self.space, usages)
        rows = {name: matrix.live_rows for name, matrix in matrices.items()}
        return self._total(rows, {name: matrix.live_columns for name, matrix in matrices.items()})

    def table(self, name: str, live_columns: int | None = None) -> Tensor:
        """What a kept sub-group costs on average: its share of the time of its layer's rows, or of its head."""
        spec = self.space.weights[name]
        prices = torch.zeros(spec.layout.count, len(spec.candidates), dtype=torch.float64)
        if spec.layout.axis == 1:
            return prices
        index = spec.layout.index()
        kept = torch.tensor([float(bits > 0) for bits in spec.candidates], dtype=torch.float64)
        for block, price in self._row_prices(name, spec.calls):
            rows = torch.bincount(index[block.start : block.start + block.count], minlength=spec.layout.count)
            prices += rows.double().unsqueeze(1) * price * kept
        return prices

    def _row_prices(self, name: str, calls: int):
        """Blocks of a matrix whose rows save time, and what one row does on average."""
        table = self.latencies
        for link in self._forward:
            for block in link.blocks:
                if block.name == name:
                    yield block, calls * _mean_slope(table.rows) / table.layers / len(link.blocks)
        for value, scores in self._attention:
            blocks = (value.blocks[0], *(scores.blocks if scores is not None else ()))
            for block in blocks if len(blocks) == 3 else ():
                if block.name == name:
                    a_head = calls * _mean_slope(table.heads) / table.layers
                    yield block, a_head / (3 * block.count / value.heads)

    def _total(self, rows: Mapping[str, Tensor], columns: Mapping[str, Tensor]) -> Tensor:
        total = torch.as_tensor(self.latencies.whole, dtype=torch.float64)
        for link in self._forward:
            if link.consumer in columns:
                change = self.latencies.row_milliseconds(columns[link.consumer].double().sum())
                total = total + change * self.space.weights[link.consumer].calls
        for value, scores in self._attention:
            if scores is not None and value.consumer in columns:
                parts = [_by_head(rows[block.name][block.start : block.start + block.count], value.heads)
                         for block in (value.blocks[0], *scores.blocks)]  # fmt: skip
                parts.append(_by_head(columns[value.consumer], value.heads))
                left = torch.stack([part.double() for part in parts]).amax(0).sum()
                change = self.latencies.head_milliseconds(left)
                total = total + change * self.space.weights[value.consumer].calls
        return total


def _by_head(present: Tensor, heads: int) -> Tensor:
    """How present the most present row of each head is, `(heads,)`."""
    return present.view(heads, -1).amax(1)


def _mean_slope(points: tuple[tuple[float, float], ...]) -> float:
    (first, low), (last, high) = points[0], points[-1]
    return max(high - low, 0.0) / (last - first)


def _scores_of(value: Link, links: tuple[Link, ...]) -> Link | None:
    """The link of the queries and keys of the same layer."""
    prefix = value.blocks[0].name.rpartition(".")[0]
    return next((link for link in links if link.kind == "scores" and link.blocks[1].name.rpartition(".")[0] == prefix),
                None)  # fmt: skip
