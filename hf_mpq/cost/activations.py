"""How many bytes the inputs of the matrices take, beside their weights."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..core import Link, PrecisionSpace, Usage, WeightSpec, applies
from .base import COSTS, CostModel
from .exact import ExactMatrix
from .expectation import ExpectedMatrix, expected_matrices, line_column
from .removable import rows_of_groups

FLOAT_BITS = 32
Matrices = Mapping[str, ExactMatrix] | Mapping[str, ExpectedMatrix]
WORDS = {"sum": "activations", "max": "peak-activations"}
"""Scope of a budget to what is counted over the inputs."""


@COSTS.register("activations")
class ActivationBytes(CostModel):
    """Bytes of the inputs of all encoder matrices at their bits, and of the attention scores (FDQ, Schaefer et al.,
    2022: bits times elements, over all layers together or of the largest one).

    A matrix reads `batch x tokens x columns` elements, each call of a shared one; columns that read pruned rows are
    gone. Query, key and value read one tensor, and count it three times, for each may round it in its own way. The
    scores of a layer, `heads x tokens x tokens` for each sequence, are what the space's `"value"` links multiply, at
    the bits of its attention probabilities; the other operands of the attention products do not count. What is not
    quantized has 32 bits. Bits of an input are those that an assignment or a usage says, else those of the space.

    Args:
        space: what may be chosen.
        sequence_length: tokens in each sequence.
        batch: sequences; the paper counts one.
        over: `"sum"` of all inputs, or `"max"`, the largest one; raises ValueError for another word.
    """

    unit = "bytes"

    def __init__(self, space: PrecisionSpace, sequence_length: int = 128, batch: int = 1, over: str = "sum"):
        super().__init__(space)
        if over not in WORDS:
            raise ValueError(f"activations are counted over 'sum' or 'max', got {over!r}")
        self.sequence_length, self.batch, self.over = sequence_length, batch, over
        self._attention = [link for link in space.links if link.kind == "value"]
        self._readers = [link for link in space.links if link.kind in ("pointwise", "value") and _applies(link, space)]
        self._linked = {link.consumer for link in self._readers}

    @property
    def what(self) -> str:
        return WORDS[self.over]

    def of_matrices(self, matrices: Mapping[str, ExactMatrix]) -> float:
        given = {name: matrix.activation_bits for name, matrix in matrices.items()}
        return float(self._together(self._inputs(matrices, given.get)))

    def expected(self, usages: Mapping[str, Usage]) -> Tensor:
        """Equal to `of` for one-hot usages; differentiable in activation bits and in what is kept."""
        matrices = expected_matrices(self.space, usages)
        given = {name: matrix.usage.activation_bits for name, matrix in matrices.items()}
        return self._together(self._inputs(matrices, given.get))

    def table(self, name: str, live_columns: int | None = None, input_bits: int | None = None) -> Tensor:
        """What each sub-group adds: the columns that read its rows, at the fewest bits that they may have, while it is
        kept, and its share of what its own input takes more, whatever its own bits are. Columns that are sub-groups
        add nothing when they are pruned. Of the largest input it is the same, as if this one were."""
        spec = self.space.weights[name]
        kept = torch.tensor(spec.candidates, dtype=torch.float64).sign()
        found = torch.zeros(spec.layout.count, len(kept), dtype=torch.float64)
        for link in self._readers:
            if link.blocks[0].name == name:
                each = self._bytes(self.space.weights[link.consumer], 1.0, self._least_bits(link.consumer))
                found += torch.outer(each * rows_of_groups(name, spec.layout, link.blocks), kept)
        if not _reads(spec):
            return found
        bits = _bits_of(spec) if input_bits is None else input_bits
        each = self._bytes(spec, 1.0, bits - (self._least_bits(name) if name in self._linked else 0))
        if spec.layout.axis == 1:
            return found + line_column(spec.layout) * each * kept
        columns = spec.layout.shape[1] if live_columns is None else live_columns
        return found + line_column(spec.layout) / spec.layout.shape[0] * columns * each

    @property
    def float_bytes(self) -> float:
        """Of the unpruned model with float32 inputs."""
        inputs = [
            self._bytes(spec, spec.layout.shape[1], FLOAT_BITS) for spec in self.space.weights.values() if _reads(spec)
        ]
        inputs += [self._scores(link, link.heads or 1, FLOAT_BITS) for link in self._attention]
        return float(self._together(inputs))

    def _inputs(self, matrices: Matrices, given: Callable) -> list[Tensor | float]:
        """Bytes of every input, and of the scores of every layer."""
        found = []
        for name, matrix in matrices.items():
            if _reads(matrix.spec):
                bits = _bits_of(matrix.spec) if given(name) is None else given(name)
                found.append(self._bytes(matrix.spec, _columns(matrix), bits))
        bits = self.space.attention.probabilities.bits if self.space.attention else FLOAT_BITS
        return found + [self._scores(link, heads, bits) for link, heads in self._heads(matrices)]

    def _heads(self, matrices: Matrices):
        """Every value link that is still there, with its number of heads."""
        for link in self._attention:
            block = link.blocks[-1]
            if block.name in matrices:
                rows = matrices[block.name].rows[block.start : block.start + block.count]
                yield link, rows.view(link.heads or 1, -1).amax(1).sum()
            elif block.name not in self.space.weights:
                yield link, link.heads or 1

    def _least_bits(self, name: str) -> int:
        """The fewest bits that the input of a matrix may have."""
        spec = self.space.weights[name]
        return spec.activation.candidates[0] if spec.activation and spec.activation.candidates else _bits_of(spec)

    def _bytes(self, spec: WeightSpec, columns, bits):
        return columns * bits * (self.batch * self.sequence_length * self._calls(spec) / 8)

    def _scores(self, link: Link, heads, bits: int):
        calls = self._calls(self.space.weights.get(link.blocks[-1].name))
        return heads * bits * (self.batch * self.sequence_length**2 * calls / 8)

    def _calls(self, spec: WeightSpec | None) -> int:
        return spec.calls if spec is not None and self.over == "sum" else 1

    def _together(self, inputs: list[Tensor | float]) -> Tensor:
        if not inputs:
            return torch.zeros(())
        every = [torch.as_tensor(one, dtype=torch.float64) for one in inputs]
        device = next((one.device for one in every if one.device.type != "cpu"), every[0].device)
        stacked = torch.stack([one.to(device) for one in every])
        return stacked.sum() if self.over == "sum" else stacked.max()


def _bits_of(spec: WeightSpec) -> int:
    """Bits of a matrix's input as the space has them."""
    return FLOAT_BITS if spec.activation is None else spec.activation.bits


def _applies(link: Link, space: PrecisionSpace) -> bool:
    """Whether columns go with the rows of a link."""
    layouts = {name: spec.layout for name, spec in space.weights.items()}
    return applies(link, layouts) and layouts[link.blocks[0].name].axis == 0


def _reads(spec: WeightSpec) -> bool:
    return spec.role == "encoder" and spec.kind == "linear"


def _columns(matrix: ExactMatrix | ExpectedMatrix):
    """Input columns that are read."""
    if matrix.spec.layout.axis == 1:
        return matrix.used_lines
    columns = matrix.live_columns
    return columns.sum() if isinstance(columns, Tensor) else columns
