"""Embedding rows without decoding."""

from torch import Tensor
from torch.nn import functional as F

from ..nn import PackedEmbedding
from ..nn.integers import IntegerMatrix
from .later import Deferred


class IntegerLookup(Deferred):
    """Stands in for a packed table's decoding: int8 levels and a scale for each row, a quarter of the float table.

    Args:
        table: whose rows have this form, as `IntegerMatrix.is_exact` says.
    """

    def __init__(self, table: PackedEmbedding):
        self.table, self.dtype = table, table.compute_dtype

    def _make(self) -> IntegerMatrix:
        matrix = IntegerMatrix.of(self.table)
        return matrix._replace(levels=matrix.levels.contiguous())

    def __call__(self, ids: Tensor) -> Tensor:
        """`(...)` ids to `(..., width)`, in the compute type."""
        matrix = self.ready()
        rows = F.embedding(ids, matrix.levels) * F.embedding(ids, matrix.scale.unsqueeze(1))
        if matrix.offset is not None:
            rows = rows + F.embedding(ids, matrix.offset.unsqueeze(1))
        return rows.to(self.dtype)


def prepare_lookup(table: PackedEmbedding, backend: str) -> None:
    """Put a lookup in place of decoding under a backend, where the table's rows have such a form."""
    if table.prepared:
        table.prepared[backend] = next(iter(table.prepared.values()))
        return
    if IntegerMatrix.is_exact(table):
        table.prepared[backend] = IntegerLookup(table)
