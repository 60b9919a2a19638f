"""Bit operations: multiply-accumulates times the bits of both operands."""

from collections.abc import Mapping
from math import log2

import torch
from torch import Tensor

from ..core import Link, PrecisionSpace, RowBlock, Usage, WeightSpec
from .base import COSTS, CostModel
from .exact import ExactMatrix, kept_share
from .expectation import ExpectedMatrix, expected_matrices, line_column

FLOAT_BITS = 32
Matrices = Mapping[str, ExactMatrix] | Mapping[str, ExpectedMatrix]


@COSTS.register("bops")
class BitOperations(CostModel):
    """BOPs of one sequence through the encoder layers, attention included; every call of a shared weight counts.

    `"simple"` is MACs times `b_w b_a` (HAWQ-V3, Bayesian Bits). `"full"` adds the accumulation (UNIQ, Baskin et al.,
    2021): `m n ((1 - f) b_a b_w + b_a + b_w + log2 n)` for `m` outputs, `n` inputs and the share `f` that a mask drops.
    Pruned sub-groups and dead columns cost nothing. Float operands have 32 bits. Attention products are those of the
    space's `"scores"` and `"value"` links; matrices outside the space do not count.

    Args:
        space: what may be chosen.
        sequence_length: tokens in the sequence.
        form: `"simple"` or `"full"`; raises ValueError for another one.
    """

    unit = "bops"

    def __init__(self, space: PrecisionSpace, sequence_length: int = 128, form: str = "simple"):
        super().__init__(space)
        if form not in ("simple", "full"):
            raise ValueError(f"unknown form {form!r} of bit operations; use 'simple' or 'full'")
        self.sequence_length = sequence_length
        self.form = form

    def of_matrices(self, matrices: Mapping[str, ExactMatrix]) -> float:
        given = {name: matrix.activation_bits for name, matrix in matrices.items()}
        bits = {name: _input_bits(m.spec) if given[name] is None else given[name] for name, m in matrices.items()}
        return float(self._products(matrices, bits))

    def expected(self, usages: Mapping[str, Usage]) -> Tensor:
        """Equal to `of` for one-hot usages; activation bits that a usage leaves open are those of the spec."""
        matrices = expected_matrices(self.space, usages)
        given = {name: matrix.usage.activation_bits for name, matrix in matrices.items()}
        bits = {name: _input_bits(m.spec) if given[name] is None else given[name] for name, m in matrices.items()}
        return torch.as_tensor(self._products(matrices, bits))

    def table(self, name: str, live_columns: int | None = None, input_bits: int | None = None) -> Tensor:
        spec = self.space.weights[name]
        if not _multiplies(spec):
            return torch.zeros(spec.layout.count, len(spec.candidates), dtype=torch.float64)
        inputs = spec.layout.shape[1] if live_columns is None else live_columns
        length = inputs if spec.layout.axis == 0 else spec.layout.shape[0]
        share = kept_share(spec)
        operand = _input_bits(spec) if input_bits is None else input_bits
        each = [self._each(bits, bool(bits), inputs, operand, share) for bits in spec.candidates]
        weights = line_column(spec.layout) * length * spec.calls * self.sequence_length  # (groups, 1)
        return weights * torch.tensor(each, dtype=torch.float64)

    @property
    def macs(self) -> float:
        """Multiply-accumulates of the whole, unpruned encoder."""
        dense = sum(sum(spec.layout.numel) * spec.calls for spec in self.space.weights.values() if _multiplies(spec))
        attention = sum(self._attention_macs(link, link.blocks[-1].count) for link in self._attention_links())
        return float(dense * self.sequence_length + attention)

    @property
    def float_bops(self) -> float:
        """Bit operations of the whole encoder in float32."""
        specs = [spec for spec in self.space.weights.values() if _multiplies(spec)]
        dense = sum(
            sum(spec.layout.numel) * spec.calls * self._each(FLOAT_BITS, 1, spec.layout.shape[1], FLOAT_BITS)
            for spec in specs
        )
        attention = sum(
            self._attention_macs(link, link.blocks[-1].count)
            * self._each(FLOAT_BITS, 1, self._fan_in(link, link.blocks[-1].count), FLOAT_BITS)
            for link in self._attention_links()
        )
        return float(dense * self.sequence_length + attention)

    def _products(self, matrices: Matrices, activation_bits: Mapping) -> Tensor | float:
        dense = sum(self._dense(m, activation_bits[name]) for name, m in matrices.items() if _multiplies(m.spec))
        return dense * self.sequence_length + sum(self._attention(link, matrices) for link in self._attention_links())

    def _dense(self, matrix: ExactMatrix | ExpectedMatrix, activation_bits):
        """One token through one matrix."""
        axis, lines = matrix.spec.layout.axis, matrix.used_lines
        inputs = lines if axis == 1 else matrix.length
        each = self._each(matrix.used_bits, lines * matrix.length, inputs, activation_bits, matrix.kept)
        return each * matrix.spec.calls

    def _attention(self, link: Link, matrices: Matrices):
        rows = _live_rows(link.blocks[-1], matrices)
        operands = self.space.attention.operands.bits if self.space.attention else FLOAT_BITS
        probabilities = self.space.attention.probabilities.bits if self.space.attention else FLOAT_BITS
        other = operands if link.kind == "scores" else probabilities
        return self._attention_macs(link, rows) * self._each(operands, 1, self._fan_in(link, rows), other)

    def _attention_links(self) -> list[Link]:
        return [link for link in self.space.links if link.kind in ("scores", "value")]

    def _attention_macs(self, link: Link, rows):
        """All query-key or probability-value products of one sequence, with `rows` live key or value rows."""
        spec = self.space.weights.get(link.blocks[-1].name)
        return self.sequence_length**2 * rows * (spec.calls if spec else 1)

    def _fan_in(self, link: Link, rows):
        return rows / (link.heads or 1) if link.kind == "scores" else self.sequence_length

    def _each(self, used_bits, used_weights, inputs, activation_bits, kept: float | None = None):
        """Bit operations of `used_weights` weights that have `used_bits` bits together."""
        products = used_bits * activation_bits * (1.0 if kept is None else kept)
        if self.form == "simple":
            return products
        return products + used_bits + used_weights * (activation_bits + _log2(inputs))


def _multiplies(spec: WeightSpec) -> bool:
    return spec.role == "encoder" and spec.kind == "linear"


def _input_bits(spec: WeightSpec) -> int:
    return FLOAT_BITS if spec.activation is None else spec.activation.bits


def _live_rows(block: RowBlock, matrices: Matrices):
    if block.name not in matrices:
        return block.count
    return matrices[block.name].rows[block.start : block.start + block.count].sum()


def _log2(count: Tensor | float) -> Tensor | float:
    return count.clamp(min=1).log2() if isinstance(count, Tensor) else log2(max(count, 1))
