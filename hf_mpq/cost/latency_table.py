"""What one forward pass takes on one machine, as it was measured: plain data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from torch import Tensor

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of one model at one shape of input, whole and with parts taken out of every layer.

    Attributes:
        whole: of the model with nothing pruned.
        encoder: what of that is spent in the encoder layers; the rest are embeddings, pooler and head.
        rows: `(feed-forward rows, milliseconds)` of the model with so many rows left in every layer, ascending in both.
        heads: `(heads, milliseconds)` likewise.
        layers: that one forward pass runs; a shared layer counts each time.
    """

    whole: float
    encoder: float
    rows: Points
    heads: Points
    layers: int

    def row_milliseconds(self, left: Tensor) -> Tensor:
        """What one layer takes more or less than a whole one with `left` feed-forward rows, differentiable."""
        return (interpolate(left, self.rows) - self.rows[-1][1]) / self.layers

    def head_milliseconds(self, left: Tensor) -> Tensor:
        """The same for heads."""
        return (interpolate(left, self.heads) - self.heads[-1][1]) / self.layers

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "LatencyTable":
        """The inverse; raises KeyError, TypeError or ValueError when `content` is no table."""
        rows, heads = (tuple((float(count), float(ms)) for count, ms in content[name]) for name in ("rows", "heads"))
        table = cls(float(content["whole"]), float(content["encoder"]), rows, heads, int(content["layers"]))
        numbers = [table.whole, table.encoder, *(ms for _, ms in (*rows, *heads))]
        if not rows or not heads or table.layers < 1 or not all(isfinite(ms) and ms > 0 for ms in numbers):
            raise ValueError("the table has no points, or times that are not above zero")
        return table


def interpolate(count: Tensor, points: Points) -> Tensor:
    """Straight between points `(count, milliseconds)` and above the last two; below the first one as at the first,
    because one row and one head always stay. A single point is the same everywhere."""
    counts, values = count.new_tensor(points).unbind(1)
    if len(points) == 1:
        return values + 0 * count
    inside = count.clamp(min=points[0][0])
    right = (inside.detach().unsqueeze(-1) > counts).sum(-1).clamp(1, len(points) - 1)
    slope = (values[right] - values[right - 1]) / (counts[right] - counts[right - 1])
    return values[right - 1] + slope * (inside - counts[right - 1])


def mean_slope(points: Points) -> float:
    """Milliseconds that one more row or head takes on average."""
    (first, low), (last, high) = points[0], points[-1]
    return (high - low) / (last - first) if last > first else 0.0
