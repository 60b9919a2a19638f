"""Products of float inputs with stored codes."""

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from ...nn import PackedLinear
from .integer_rows import IntegerRows
from .planes import PlaneTable
from .product import FEW_TOKENS, KERNEL_TYPES

Product = Callable[[Tensor], Tensor]


class PlanesProduct:
    """Stands in for the decoding of a layer whose input is float: for few tokens bit planes are unpacked inside the
    product, so that no more than the stored bytes are read.

    `y = scale (x levels) + offset sum(x) + bias`, levels exact in every float type, sums in float32: off from the
    decoded product by rounding only, and nearer to the stored weight in half precision, where that rounds weights.

    Args:
        layer: without an activation quantizer.
        table: of its codes.
        kernels: as of `kernels_for`.
        plain: runs for more tokens, gradients and other types.
        few_tokens: up to so many, planes are read.
    """

    def __init__(
        self, layer: PackedLinear, table: PlaneTable, kernels: ModuleType, plain: Product, few_tokens: int = FEW_TOKENS
    ):
        rows = IntegerRows.of(layer)
        self.table, self.kernels, self.plain, self.few_tokens = table, kernels, plain, few_tokens
        self.rows = rows._replace(levels=rows.levels[:, :0])  # only planes are read
        self.factors = None if rows.factors is None else [part.to(layer.compute_dtype) for part in rows.factors]

    @classmethod
    def of(
        cls, layer: PackedLinear, kernels: ModuleType | None, plain: Product, few_tokens: int = FEW_TOKENS
    ) -> Product:
        """`plain` itself where there are no kernels, or no codes that they read."""
        table = None if kernels is None else PlaneTable.of(layer)
        return plain if table is None else cls(layer, table, kernels, plain, few_tokens)

    def __call__(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`, in the type of `x`."""
        count = x.numel() // x.shape[-1]
        if not 0 < count <= self.few_tokens or x.dtype not in KERNEL_TYPES or torch.compiler.is_compiling():
            return self.plain(x)
        if torch.is_grad_enabled() and x.requires_grad:
            return self.plain(x)
        tokens = x.reshape(count, -1).contiguous()
        y = self.kernels.float_product(tokens, self.table, self.rows)
        if self.factors is not None:
            y = y + F.linear(F.linear(tokens, self.factors[1]), self.factors[0])
        return y.view(*x.shape[:-1], -1)
