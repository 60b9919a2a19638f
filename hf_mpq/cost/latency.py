"""Milliseconds of a forward pass, from a table that was measured on this machine."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..core import BudgetError, PrecisionSpace, Registry, Usage
from .base import COSTS, CostModel
from .exact import ExactMatrix, layer_share, matrices_with
from .expectation import expected_matrices
from .latency_table import LatencyTable, mean_slope
from .removable import FeedForwardRows, Removable, removable_parts

BATCH, TOKENS = 1, 128

Measure = Callable[[PrecisionSpace, int, int], LatencyTable]
MEASURES: Registry[Measure] = Registry("measure of latencies", home="hf_mpq.runtime.latency")
HERE = "here"
"""What measures the model of a space, at a batch and a number of tokens, on this machine."""


@COSTS.register("latency")
class Latency(CostModel):
    """Milliseconds of one forward pass as `hf_mpq.prepare` runs it here.

    The model is measured whole, and with fewer feed-forward rows or heads in every layer; a layer with other numbers
    takes what lies between. Prepared products have the same width whatever the precision of the weights, so 1 to 8 bits
    take the same time. Only what can be taken out saves any: feed-forward rows, and heads whose query, key and value
    are all pruned. One row and one head of a layer always stay.

    Args:
        space: what may be chosen.
        batch, tokens: of the input.
        table: what was measured; None measures now, or takes what is kept of an earlier measurement.

    Raises:
        BudgetError: when the family of the model is not known, so that nothing can be taken out of it.
    """

    unit: ClassVar[str] = "ms"

    def __init__(
        self, space: PrecisionSpace, batch: int = BATCH, tokens: int = TOKENS, table: LatencyTable | None = None
    ):
        super().__init__(space)
        if table is None and not (space.architecture and space.links):
            raise BudgetError(
                "a budget in ms needs a model of a known family, of which rows and heads can be removed; "
                "give one in bytes or bits"
            )
        self.latencies = MEASURES[HERE](space, batch, tokens) if table is None else table
        self._parts = removable_parts(space)

    def of_matrices(self, matrices: Mapping[str, ExactMatrix]) -> float:
        gone = 1 - layer_share(self.space, matrices)
        parts = [part for part in self._parts if part.reader in matrices]
        left = torch.tensor([part.left(matrices) for part in parts], dtype=torch.float64)
        return self.latencies.whole - gone * self.latencies.encoder + float(self._changes(parts, left))

    def expected(self, usages: Mapping[str, Usage]) -> Tensor:
        """Equal to `of` for one-hot usages; between them the time of the expected numbers of rows and heads."""
        matrices = expected_matrices(self.space, usages)
        if not self._parts:
            return torch.tensor(self.latencies.whole)
        left = torch.stack([part.expected_left(matrices) for part in self._parts])
        return self.latencies.whole + self._changes(self._parts, left)

    def table(self, name: str, live_columns: int | None = None, input_bits: int | None = None) -> Tensor:
        """What a kept sub-group takes on average: its share of its layer's rows, or of its head."""
        spec = self.space.weights[name]
        each = torch.zeros(spec.layout.count, dtype=torch.float64)
        for part in self._parts:
            if any(block.name == name for block in part.blocks):
                each += part.parts(name, spec.layout) * self._price(part)
        return torch.outer(each, torch.tensor(spec.candidates, dtype=torch.float64).sign())

    def check(self, limit: float) -> None:
        """Raise BudgetError when `limit` is below what the model takes, and nothing in the space saves time."""
        if any(self._price(part) > 0 and self._can_go(part) for part in self._parts):
            return
        whole = self.of_matrices(
            matrices_with(
                self.space,
                {
                    name: np.array(spec.bits or spec.candidates[-1:] * spec.layout.count, np.uint8)
                    for name, spec in self.space.weights.items()
                },
            )
        )
        if whole > limit:
            raise BudgetError(
                f"the budget of {limit:,.6g} ms cannot be met: the model takes {whole:,.6g} ms, and only "
                "pruned feed-forward rows and heads save time; put 0 among the bits, for example "
                "bits=(0, 4, 8)"
            )

    def _changes(self, parts: list[Removable], left: Tensor) -> Tensor:
        """What `left` `(parts,)` rows and heads take more or less than all of them, a scalar."""
        rows = [number for number, part in enumerate(parts) if isinstance(part, FeedForwardRows)]
        heads = [number for number, part in enumerate(parts) if not isinstance(part, FeedForwardRows)]
        calls = left.new_tensor([part.calls for part in parts])
        return (
            self.latencies.row_milliseconds(left[rows]) @ calls[rows]
            + self.latencies.head_milliseconds(left[heads]) @ calls[heads]
        )

    def _price(self, part: Removable) -> float:
        """Milliseconds of one row or head on average."""
        points = self.latencies.rows if isinstance(part, FeedForwardRows) else self.latencies.heads
        return part.calls * mean_slope(points) / self.latencies.layers

    def _can_go(self, part: Removable) -> bool:
        """Whether each of its matrices has 0 bits to choose, or pruned rows already."""
        specs = (self.space.weights[block.name] for block in part.blocks)
        return all(0 in (spec.candidates if spec.bits is None else spec.bits) for spec in specs)
