"""Energy of an integer core whose products get faster with fewer bits."""

from collections.abc import Mapping
from math import ceil, floor
from typing import TypeVar

import torch
from torch import Tensor

from ..core import PrecisionSpace, Usage, WeightSpec
from .base import COSTS, CostModel
from .exact import ExactMatrix
from .expectation import ExpectedMatrix, expected_matrices, line_column

T = TypeVar("T")

ENTRIES = (2, 4, 8)
MACS_PER_CYCLE = {2: (6.5, 4.0, 2.2), 4: (3.9, 3.5, 2.1), 8: (2.5, 2.3, 2.1)}
"""Activation bits to multiply-accumulates per cycle with weights of 2, 4 and 8 bits."""
HERTZ = 250e6
WATTS = 5.3825e-3
MICROJOULES_PER_CYCLE = WATTS / HERTZ * 1e6


@COSTS.register("energy")
class Energy(CostModel):
    """Microjoules of one sequence through the encoder's matrices on MPIC, a RISC-V core with 2, 4 and 8 bit products.

    Every matrix takes `rows columns calls` multiply-accumulates per token at the published rate of its activation and
    weight bits; a cycle takes 5.3825 mW / 250 MHz (Risso et al., IGSC 2022). Bits between
    two entries of the table cost what the next higher entry does. Pruned sub-groups and dead columns cost nothing. A
    mask saves nothing, and attention products, embeddings and matrices outside the encoder do not count.

    Args:
        space: what may be chosen.
        tokens: in the sequence.

    Raises:
        ValueError: when the input of an encoder matrix is float, which this core cannot multiply.
    """

    unit = "uJ"

    def __init__(self, space: PrecisionSpace, tokens: int = 128):
        super().__init__(space)
        self.tokens = tokens
        for name, spec in space.weights.items():
            if _multiplies(spec):
                _activation_bits(name, spec)

    def of_matrices(self, matrices: Mapping[str, ExactMatrix]) -> float:
        return float(sum(self._exact(name, matrix) for name, matrix in matrices.items() if _multiplies(matrix.spec)))

    def expected(self, usages: Mapping[str, Usage]) -> Tensor:
        """Equal to `of` for one-hot usages; weights and input are taken as independent. Where a usage has bits of the
        input and no probabilities, the price between whole bits is taken to be straight."""
        matrices = expected_matrices(self.space, usages)
        parts = (self._expected(name, matrix) for name, matrix in matrices.items() if _multiplies(matrix.spec))
        return torch.as_tensor(sum(parts))

    def table(self, name: str, live_columns: int | None = None, input_bits: int | None = None) -> Tensor:
        spec = self.space.weights[name]
        if not _multiplies(spec):
            return torch.zeros(spec.layout.count, len(spec.candidates), dtype=torch.float64)
        length = spec.layout.line_length if live_columns is None or spec.layout.axis == 1 else live_columns
        prices = price_table(spec.candidates)[_activation_bits(name, spec, input_bits)]
        return line_column(spec.layout) * prices * self._products(spec, length)

    def _exact(self, name: str, matrix: ExactMatrix) -> float:
        prices = price_table(tuple(matrix.lines))[_activation_bits(name, matrix.spec, matrix.activation_bits)]
        lines = torch.tensor(list(matrix.lines.values()), dtype=torch.float64)
        return float(lines @ prices) * self._products(matrix.spec, matrix.length)

    def _expected(self, name: str, matrix: ExpectedMatrix) -> Tensor:
        precisions, shares = matrix.precisions, matrix.shares
        if matrix.usage.probabilities is not None:  # nested codes are multiplied at the bits that are used
            precisions, shares = matrix.spec.candidates, matrix.usage.probabilities
        bits = _activation_bits(name, matrix.spec, matrix.usage.activation_bits)
        prices = price_table(precisions).to(shares)  # (activation bits, precisions)
        chances = matrix.usage.activation_probabilities
        if chances is None:
            prices = _between(prices, bits)
        else:
            prices = chances @ prices[list(matrix.spec.activation.candidates)]
        return (shares @ prices * matrix.lines).sum() * self._products(matrix.spec, matrix.length)

    def _products(self, spec: WeightSpec, length):
        """Microjoules per cycle times products of one line with `length` weights, over the sequence."""
        return length * spec.calls * self.tokens * MICROJOULES_PER_CYCLE


def price_table(precisions: tuple[int, ...]) -> Tensor:
    """Cycles of a multiply-accumulate with activations of 0 to 8 bits (rows) at each precision: `(9, precisions)`."""
    rows = [[_cycles(activation, bits) for bits in precisions] for activation in range(ENTRIES[-1] + 1)]
    return torch.tensor(rows, dtype=torch.float64)


def _cycles(activation: int, bits: int) -> float:
    if not bits:
        return 0.0
    rates = MACS_PER_CYCLE[_entry(activation)]
    return 1 / rates[ENTRIES.index(_entry(bits))]


def _entry(bits: int) -> int:
    """The lowest entry of the table that holds `bits`."""
    return next(entry for entry in ENTRIES if bits <= entry)


def _between(prices: Tensor, bits: Tensor | float) -> Tensor:
    """The row of `prices` at whole `bits`, between two rows elsewhere, differentiable in `bits`."""
    value = bits.detach().item() if isinstance(bits, Tensor) else bits
    low, high = (min(max(whole, 0), len(prices) - 1) for whole in (floor(value), ceil(value)))
    return prices[low] + (bits - low) * (prices[high] - prices[low])


def _multiplies(spec: WeightSpec) -> bool:
    return spec.role == "encoder" and spec.kind == "linear"


def _activation_bits(name: str, spec: WeightSpec, given: T | None = None) -> T | int:
    """Bits of the input: those given, else those of the spec."""
    if given is not None:
        return given
    if spec.activation is None:
        raise ValueError(f"{name}: the energy cost model needs quantized activations: set activation_bits=8")
    return spec.activation.bits
