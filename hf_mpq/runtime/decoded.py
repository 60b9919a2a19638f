"""Weights that are decoded once."""

from collections.abc import Collection

from torch import Tensor, nn
from torch.nn import functional as F

from ..nn import PackedEmbedding, PackedLinear
from ..nn.packed import PackedMatrix
from .later import Deferred
from .lookup import IntegerLookup


class FloatProduct(Deferred):
    """Multiplies with the decoded weight."""

    def __init__(self, layer: PackedLinear):
        self.layer = layer

    def _make(self) -> tuple[Tensor, Tensor | None]:
        return self.layer.weight, self.layer.bias

    def __call__(self, x: Tensor) -> Tensor:
        quantizer = self.layer.input_quantizer
        return F.linear(x if quantizer is None else quantizer(x), *self.ready())


def float_product(layer: PackedLinear) -> FloatProduct:
    """One for all backends that multiply floats."""
    there = (product for product in layer.prepared.values() if isinstance(product, FloatProduct))
    return next(there, None) or FloatProduct(layer)


class DecodedTable(Deferred):
    """Stands in for the decoding of a table that a decoder multiplies with too.

    Attributes:
        weight: the decoded table, kept.
    """

    def __init__(self, table: PackedEmbedding):
        self.table = table

    def _make(self) -> Tensor:
        return self.table.weight

    @property
    def weight(self) -> Tensor:
        return self.ready()

    def __call__(self, ids: Tensor) -> Tensor:
        """`(...)` ids to `(..., width)`, in the compute type."""
        return F.embedding(ids, self.weight)


def decode_now(model: nn.Module) -> None:
    """Decode what would be decoded at its first use: a graph that is traced before that cannot hold it."""
    for product in _deferred(model):
        if isinstance(product, FloatProduct | DecodedTable | IntegerLookup) and not product.stands_back:
            product.ready()


def release(model: nn.Module, kept: Collection[str]) -> None:
    """Give up what was made of weights for other backends than some; they make it again when they are used."""
    for product in _deferred(model) - _deferred(model, kept):
        product.release()


def _deferred(model: nn.Module, names: Collection[str] | None = None) -> set[Deferred]:
    prepared = [module.prepared.items() for module in model.modules() if isinstance(module, PackedMatrix)]
    return {
        product
        for items in prepared
        for name, product in items
        if isinstance(product, Deferred) and (names is None or name in names)
    }
