"""What a search over shapes knows of the model that it trains."""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import nn

from ..core import ModelShape
from ..cost.shape_latency import ShapeLatencies
from ..nn.elastic import Elastic

Sizes = tuple[int, int, int]
"""Layers, hidden size, feed-forward rows."""


class SubNets(Protocol):
    """Sub-nets of a super-model, and how long they take on this machine."""

    model: nn.Module
    elastic: Elastic

    def latencies(
        self, shapes: Sequence[Sizes], held_out: Sequence[Sizes], shape_of: Callable[[Sizes], ModelShape]
    ) -> ShapeLatencies:
        """Measured once, the same in all processes."""
        ...
