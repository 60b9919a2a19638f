"""Size in the units that papers report: MiB of the encoder, and mean bits."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from ..core import PrecisionSpace, SubgroupLayout, Usage, WeightSpec
from .base import COSTS, CostModel
from .exact import ExactMatrix, kept_share, layer_share, stored
from .expectation import ExpectedMatrix, expected_matrices, grouped, line_column, stacked
from .size import float_bytes

Matrix = TypeVar("Matrix", ExactMatrix, ExpectedMatrix)


@COSTS.register("paper")
class PaperSize(CostModel):
    """MiB of the encoder layers as papers count it: weights at their bits, biases and norms at 8 bit, no metadata.

    Embeddings, pooler and head are left out. Masks, and what pruned rows save elsewhere, do not count.
    """

    unit = "MiB"

    def of_matrices(self, matrices: Mapping[str, ExactMatrix]) -> float:
        encoder = _encoder(matrices)
        bits = sum(b * n * m.layout.line_length for m in encoder for b, n in m.stored_lines.items())
        biases = sum(matrix.layout.shape[0] for matrix in encoder if matrix.spec.bias)
        norms = self.space.encoder_norm_parameters * layer_share(self.space, matrices)
        return (bits / 8 + biases + norms) / 2**20

    def expected(self, usages: Mapping[str, Usage]) -> Tensor:
        encoder = _encoder(expected_matrices(self.space, usages, rows=False))
        bits = _total_bits(encoder, [1.0] * len(encoder)) if encoder else 0.0
        biases = sum(matrix.spec.layout.shape[0] for matrix in encoder if matrix.spec.bias)
        return torch.as_tensor((bits / 8 + biases + self.space.encoder_norm_parameters) / 2**20)

    def table(self, name: str, live_columns: int | None = None, input_bits: int | None = None) -> Tensor:
        spec = self.space.weights[name]
        return _code_bits(spec, spec.layout.line_length) / (8 * 2**20)

    @property
    def float_mib(self) -> float:
        """MiB of the encoder layers in float32."""
        return float_bytes(self.space, "encoder") / 2**20


@COSTS.register("bits")
class AverageBits(CostModel):
    """Stored code bits over the number of quantized encoder weights; dead columns and masked weights have none.

    Args:
        space: what may be chosen.
        weights: that the bits are a mean over; None for those of the space.
    """

    unit = "bits"

    def __init__(self, space: PrecisionSpace, weights: int | None = None):
        super().__init__(space)
        own = sum(sum(spec.layout.numel) for spec in space.weights.values() if spec.role == "encoder")
        self.weights = max(1, own if weights is None else weights)

    def of_matrices(self, matrices: Mapping[str, ExactMatrix]) -> float:
        return sum(matrix.code_bits for matrix in _encoder(matrices)) / self.weights

    def expected(self, usages: Mapping[str, Usage]) -> Tensor:
        encoder = _encoder(expected_matrices(self.space, usages, rows=False))
        whole = [one for one in encoder if one.reads_all]
        parts = [_total_bits(whole, [1.0 if one.kept is None else one.kept for one in whole])] if whole else []
        parts += map(_bits_of_open, grouped(one for one in encoder if not one.reads_all))
        return torch.as_tensor(sum(parts[1:], parts[0] if parts else 0.0) / self.weights)

    def table(self, name: str, live_columns: int | None = None, input_bits: int | None = None) -> Tensor:
        spec = self.space.weights[name]
        length = spec.layout.line_length if live_columns is None or spec.layout.axis == 1 else live_columns
        share = kept_share(spec)
        return _code_bits(spec, length) * (1.0 if share is None else share) / self.weights


def _encoder(matrices: Mapping[str, Matrix]) -> list[Matrix]:
    return [matrix for matrix in matrices.values() if matrix.spec.role == "encoder"]


def _total_bits(matrices: Sequence[ExpectedMatrix], shares: Sequence[float]) -> Tensor:
    """Expected code bits of all, of each a share of its weights, `()`: in one sum over all sub-groups."""
    bits = torch.cat([one.stored_bits for one in matrices])
    kinds = tuple((one.spec.layout, share) for one, share in zip(matrices, shares))
    return (bits * _weights(kinds, bits.dtype, bits.device)).sum()


def _bits_of_open(group: Sequence[ExpectedMatrix]) -> Tensor:
    """Expected code bits of matrices of one spec that lose columns, `()`."""
    lines, share = group[0].lines, group[0].kept
    bits = (stacked(one.stored_bits for one in group) * lines).sum(-1)
    total = (bits * stacked(one.live_columns for one in group).sum(-1)).sum()
    return total if share is None else total * share


@lru_cache(maxsize=256)
def _weights(kinds: tuple[tuple[SubgroupLayout, float], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Stored weights of every sub-group of some matrices, `(groups of all,)`; of each a share is stored."""
    counts = [count * share for layout, share in kinds for count in layout.numel]
    with torch.inference_mode(False):
        return torch.tensor(counts, dtype=dtype, device=device)


def _code_bits(spec: WeightSpec, length: int) -> Tensor:
    """Code bits of each choice of an encoder matrix, 0 for others: `(groups, candidates)`."""
    bits = [stored(candidate, spec.nested) if spec.role == "encoder" else 0 for candidate in spec.candidates]
    return line_column(spec.layout) * torch.tensor(bits, dtype=torch.float64) * length
