"""Matrices in the kernel's own form, and single products by it."""

from types import ModuleType

import torch
from torch import Tensor, nn

from ...nn import PackedLinear
from ...nn.integers import IntegerMatrix
from ...nn.packed import refuse_export
from ...weights import ActivationQuantizer
from .build import kernel
from .product import SYMMETRIC_ZERO, Int8Product, prepacked

NAME = "cpu-int8"
DYNAMIC, FIXED = "dynamic-token", ("static", "fixed", "fixed-basis")


class NativeProduct:
    """An `Int8Product` in one call: quantizing, product, and what is left to do of its output.

    Args:
        plain: runs in its place for inputs in double precision, and for gradients.
        matrix: of the kernel.
    """

    def __init__(self, plain: Int8Product, matrix):
        self.plain, self.matrix = plain, matrix

    @torch.compiler.disable
    def __call__(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`, in the type of `x`."""
        refuse_export()
        if x.dtype == torch.float64 or (torch.is_grad_enabled() and x.requires_grad):
            return self.plain(x)
        return self.matrix.linear(x.float().contiguous()).to(x.dtype)


def use_native_products(model: nn.Module) -> None:
    """Give every integer product its one call, in place, where the kernel can run it, and lay out the weights of those
    where it cannot; those of fused layers stand back anyway, and stay as they are."""
    library = kernel()
    parts = [layer.fused_parts for layer in model.modules() if hasattr(layer, "fused_parts")]
    fused = {id(matrix) for one in parts for matrix in one.matrices}
    for layer in model.modules():
        plain = layer.prepared.get(NAME) if isinstance(layer, PackedLinear) and id(layer) not in fused else None
        if not isinstance(plain, Int8Product):
            continue
        grid = None if library is None else native_grid(library, [layer])
        if grid is None:
            plain.ready()
        else:
            layer.prepared[NAME] = NativeProduct(plain, native_matrix(library, [layer], grid))


def native_matrix(library: ModuleType, layers: list[PackedLinear], grid):
    """Layers that share their input, as one matrix of the kernel."""
    matrix = IntegerMatrix.stacked([IntegerMatrix.of(layer) for layer in layers])
    levels, bias = matrix.levels.contiguous(), matrix.bias.contiguous()
    if multiplies(library):
        return library.Matrix.in_panels(levels, matrix.scale, bias, matrix.offset, grid)
    sums = levels.sum(1, dtype=torch.float32)
    return library.Matrix(*prepacked(matrix), bias, sums, matrix.offset, *levels.shape, grid)


def multiplies(library: ModuleType) -> bool:
    """Whether the kernel's own products are used: they are as fast as oneDNN's with AVX512-VNNI, and for few tokens
    faster; oneDNN has AMX."""
    return library.HAS_PRODUCTS and not torch.cpu._is_amx_tile_supported()


def native_grid(library: ModuleType, layers: list[PackedLinear]):
    """How the layers quantize the input that they share; None unless all do it alike, in a way that the kernel can."""
    found = {grid_values(layer.input_quantizer) for layer in layers}
    values = found.pop()
    return None if found or values is None else library.Grid(*values)


def grid_values(quantizer: ActivationQuantizer | None) -> tuple[bool, bool, float, float, float] | None:
    """Whether a range is found per token, whether it is symmetric, its levels, step and zero point; None of others."""
    if quantizer is None:
        return None
    levels = float(2 ** (quantizer.bits - 1) - 1 if quantizer.symmetric else 2**quantizer.bits - 1)
    if quantizer.name == DYNAMIC:
        return True, quantizer.symmetric, levels, 0.0, 0.0
    if quantizer.name not in FIXED:
        return None
    grid = quantizer.grid(torch.zeros(1))
    if grid.levels is not None:
        return None
    shift = SYMMETRIC_ZERO if quantizer.symmetric else 0
    return False, quantizer.symmetric, levels, float(grid.step), float(grid.zero) + shift
