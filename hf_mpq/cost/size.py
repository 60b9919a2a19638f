"""How many bytes an assignment takes as stored."""

from collections.abc import Mapping
from math import ceil

import torch
from torch import Tensor

from ..core import BudgetError, PrecisionSpace, Usage, WeightSpec
from ..core.storage import ITEM_BYTES
from .base import COSTS, CostModel
from .exact import ExactMatrix, kept_share, layer_share, mask_rate, stored
from .expectation import ExpectedMatrix, alike, expected_matrices, line_column

SCOPES = ("model", "encoder", "embedding")


@COSTS.register("size")
class StoredSize(CostModel):
    """Bytes of all stored tensors in a scope, equal to what packing writes.

    The encoder scope is everything in the encoder layers; the embedding scope is the embedding matrices with the norms
    outside the layers. A shared weight counts once.

    Args:
        space: what may be chosen.
        scope: `"model"`, `"encoder"` or `"embedding"`; raises BudgetError for another one.
    """

    unit = "bytes"

    def __init__(self, space: PrecisionSpace, scope: str = "model"):
        super().__init__(space)
        if scope not in SCOPES:
            raise BudgetError(f"unknown scope {scope!r}; the known ones are: {', '.join(SCOPES)}")
        self.scope = scope

    @property
    def what(self) -> str:
        return self.scope

    def of_matrices(self, matrices: Mapping[str, ExactMatrix]) -> float:
        packed = sum(matrix.storage().total_bytes for name, matrix in matrices.items() if self._counts(name))
        return float(packed + self._others(layer_share(self.space, matrices)))

    def expected(self, usages: Mapping[str, Usage]) -> Tensor:
        """Equal to `of` for one-hot usages, but for padding: `of` is larger by less than one byte for each bit plane of
        each line of codes and for each stored tensor. Maps and masks of live lines count, without gradient."""
        matrices = expected_matrices(self.space, usages)
        counted = alike(matrix for name, matrix in matrices.items() if self._counts(name))
        packed = sum(_expected_bytes(matrix).sum() for matrix in counted)
        return torch.as_tensor(packed + self._others())

    def table(self, name: str, live_columns: int | None = None, input_bits: int | None = None) -> Tensor:
        spec = self.space.weights[name]
        if not self._counts(name):
            return torch.zeros(spec.layout.count, len(spec.candidates), dtype=torch.float64)
        length = spec.layout.line_length if live_columns is None or spec.layout.axis == 1 else live_columns
        bits = [stored(candidate, spec.nested) for candidate in spec.candidates]
        factor = spec.rank * ITEM_BYTES[spec.float_dtype] if spec.layout.axis == 0 else 0
        line = torch.tensor([_line_bytes(b, length, spec) + factor * (b > 0) for b in bits], dtype=torch.float64)
        floats = torch.tensor([spec.floats[b] if b else 0 for b in bits], dtype=torch.float64)
        return line_column(spec.layout) * line + floats * ITEM_BYTES[spec.scale_dtype]

    def _counts(self, name: str) -> bool:
        return self.scope in ("model", self.space.weights[name].role)

    def _others(self, layers: float = 1.0) -> float:
        """Bytes of norms and of everything that is not quantized; `layers` is the share of encoder layers kept."""
        norms, others = _norms_and_others(self.space, self.scope, layers)
        return norms * ITEM_BYTES[self.space.norm_dtype] + others


def float_bytes(space: PrecisionSpace, scope: str = "model") -> float:
    """Bytes of the float32 file in `scope`: weights, biases and norms at 4 bytes, everything else as it is."""
    specs = [spec for spec in space.weights.values() if scope in ("model", spec.role)]
    weights = sum(sum(spec.layout.numel) + (spec.layout.shape[0] if spec.bias else 0) for spec in specs)
    norms, others = _norms_and_others(space, scope)
    return float((weights + norms) * 4 + others)


def _norms_and_others(space: PrecisionSpace, scope: str, layers: float = 1.0) -> tuple[float, float]:
    """Norm parameters and other bytes of a scope, with the share `layers` of the encoder layers kept."""
    inside = (space.encoder_norm_parameters * layers, space.encoder_other_bytes * layers)
    outside = space.norm_parameters - space.encoder_norm_parameters
    if scope == "encoder":
        return inside
    if scope == "embedding":
        return outside, space.embedding_other_bytes
    return inside[0] + outside, inside[1] + space.other_bytes - space.encoder_other_bytes


def _line_bytes(bits: int, length: int, spec: WeightSpec) -> float:
    """Bytes of one line of codes, and of its mask where it has one."""
    kept = kept_share(spec)
    if kept is None:
        return bits * ceil(length / 8)
    return (bits * kept + mask_rate(spec)) * length / 8 if bits else 0


def _expected_bytes(matrix: ExpectedMatrix) -> Tensor:
    """Of one matrix, or of each of several."""
    spec, columns = matrix.spec, matrix.live_columns.shape[-1]
    floats = matrix.shares.new_tensor([spec.floats[bits] if bits else 0 for bits in matrix.precisions])
    total = matrix.code_bits / 8
    total = total + (matrix.shares @ floats).sum(-1) * ITEM_BYTES[spec.scale_dtype]
    total = total + matrix.map_bits * ceil(spec.layout.count / 8)
    if matrix.kept is not None:
        total = total + (matrix.keep * matrix.lines).sum(-1) * matrix.length * mask_rate(spec) / 8
    total = total + (1 - matrix.live_columns.detach().prod(-1)) * ceil(columns / 8)
    rows = matrix.used_lines if spec.layout.axis == 0 else spec.layout.shape[0]
    channels = _live_channels(matrix)
    total = total + (channels * len(spec.affine) + (rows + channels) * spec.rank) * ITEM_BYTES[spec.float_dtype]
    return total + _expected_bias_bytes(matrix) if spec.bias else total


def _live_channels(matrix: ExpectedMatrix) -> Tensor | int:
    """Expected input channels that are stored."""
    return matrix.live_columns.sum(-1) if matrix.spec.layout.axis == 0 else matrix.live_columns.shape[-1]


def _expected_bias_bytes(matrix: ExpectedMatrix) -> Tensor:
    mask = (1 - matrix.rows.detach().prod(-1)) * ceil(matrix.rows.shape[-1] / 8)
    return mask + matrix.rows.sum(-1) * ITEM_BYTES[matrix.spec.float_dtype]
