"""Embedding rows without decoding."""

from torch import Tensor
from torch.nn import functional as F

from ..nn import PackedEmbedding
from ..nn.integers import IntegerMatrix


class IntegerLookup:
    """Stands in for a packed table's decoding: int8 levels and a scale for each row, a quarter of the float table.

    Args:
        table: whose rows have this form, as `IntegerMatrix.exact` says.
    """

    def __init__(self, table: PackedEmbedding, matrix: IntegerMatrix):
        self.dtype, self.levels = table.compute_dtype, matrix.levels.contiguous()
        self.scale = matrix.scale.unsqueeze(1)
        self.offset = None if matrix.offset is None else matrix.offset.unsqueeze(1)

    def __call__(self, ids: Tensor) -> Tensor:
        """`(...)` ids to `(..., width)`, in the compute type."""
        rows = F.embedding(ids, self.levels) * F.embedding(ids, self.scale)
        return (rows if self.offset is None else rows + F.embedding(ids, self.offset)).to(self.dtype)


def prepare_lookup(table: PackedEmbedding, backend: str) -> None:
    """Put a lookup in place of decoding under a backend, where the table's rows have such a form."""
    if table.prepared:
        table.prepared[backend] = next(iter(table.prepared.values()))
        return
    matrix = IntegerMatrix.of(table)
    if matrix.exact:
        table.prepared[backend] = IntegerLookup(table, matrix)
