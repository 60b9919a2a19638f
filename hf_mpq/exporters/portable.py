"""Layers that compute what packed ones do in operators that ONNX has."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn import PackedEmbedding, PackedLayerNorm, PackedLinear
from ..nn.affine import shift_and_scale
from ..nn.attention import QuantizedDropout
from ..nn.integers import IntegerMatrix
from ..nn.packed import PackedTiedLinear
from ..runtime.backends import MOST_COLUMNS
from ..weights.activations import ActivationGrid
from ..weights.activations.base import nonzero

FLOAT = 1
"""ONNX' number for float32."""


class _FakeQuantize(torch.autograd.Function):
    """Onto a fixed grid and back: `QuantizeLinear`, `DequantizeLinear`."""

    @staticmethod
    def forward(ctx, x: Tensor, step: Tensor, zero: Tensor) -> Tensor:
        limits = torch.iinfo(zero.dtype)
        levels = (torch.round(x / step) + zero).clamp(limits.min, limits.max)
        return (levels - zero) * step

    @staticmethod
    def symbolic(g, x, step, zero):
        return g.op("DequantizeLinear", g.op("QuantizeLinear", x, step, zero), step, zero)


class _Dequantize(torch.autograd.Function):
    """Levels times the scales along one axis: `DequantizeLinear`."""

    @staticmethod
    def forward(ctx, levels: Tensor, scale: Tensor, axis: int) -> Tensor:
        return levels * (scale if axis == 1 else scale.unsqueeze(1))

    @staticmethod
    def symbolic(g, levels, scale, axis):
        return g.op("DequantizeLinear", levels, scale, axis_i=axis)


class _DynamicProduct(torch.autograd.Function):
    """`DynamicQuantizeLinear`, `MatMulInteger`: one range for the whole input, found in every pass."""

    @staticmethod
    def forward(ctx, x: Tensor, levels: Tensor, scale: Tensor) -> Tensor:
        low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
        step = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).tiny)
        zero = torch.round(-low / step)
        return ((torch.round(x / step) + zero).clamp(0, 255) - zero) @ levels.float() * (step * scale)

    @staticmethod
    def symbolic(g, x, levels, scale):
        codes, step, zero = g.op("DynamicQuantizeLinear", x, outputs=3)
        sums = g.op("Cast", g.op("MatMulInteger", codes, levels, zero), to_i=FLOAT)
        return g.op("Mul", sums, g.op("Mul", step, scale))


class _IntegerProduct(torch.autograd.Function):
    """`MatMulInteger` of levels, as float32."""

    @staticmethod
    def forward(ctx, codes: Tensor, levels: Tensor) -> Tensor:
        return codes.float() @ levels.float()

    @staticmethod
    def symbolic(g, codes, levels):
        return g.op("Cast", g.op("MatMulInteger", codes, levels), to_i=FLOAT)


class UnevenGrid(nn.Module):
    """A fixed grid that lacks some levels, which are found by comparisons; its product is one of integers."""

    def __init__(self, grid: ActivationGrid):
        super().__init__()
        self.limits = grid.low, grid.high
        self.register_buffer("step", nonzero(grid.step))
        self.register_buffer("zero", grid.zero)
        self.register_buffer("levels", grid.levels)

    def encode(self, x: Tensor) -> tuple[Tensor, ActivationGrid]:
        """As of an `ActivationQuantizer`."""
        grid = ActivationGrid(self.step, self.zero, *self.limits, self.levels)
        return grid.nearest(x / self.step), grid

    def decode(self, codes: Tensor, grid: ActivationGrid) -> Tensor:
        """As of an `ActivationQuantizer`."""
        return (codes - grid.zero) * grid.step


class PortableLinear(nn.Module):
    """A packed linear layer as integers `(in, out)` with a scale per output.

    Args:
        layer: packed.
        grid: of its input, where that is fixed.
        activations: as in `ExportRequest`; whatever is said there, an input that is float in the layer and has no grid
            stays so.
    """

    def __init__(self, layer: PackedLinear, grid: ActivationGrid | None, activations: str):
        super().__init__()
        matrix = IntegerMatrix.of(layer)
        self.shift, self.divisor = layer.input_shift, layer.input_scale
        quantized = grid is None and layer.input_quantizer is not None
        self.dynamic = quantized and activations == "dynamic"
        self.quantizer = layer.input_quantizer if quantized and activations == "trained" else None
        if grid is not None and grid.levels is not None:
            self.quantizer, grid = UnevenGrid(grid), None
        if self.quantizer is not None:
            self.register_buffer("column_sum", matrix.levels.sum(1, dtype=torch.float32))
        self.register_buffer("levels", matrix.levels.t().contiguous())
        self.register_buffer("scale", matrix.scale.contiguous())
        self.register_buffer("offset", matrix.offset)
        self.bias = nn.Parameter(matrix.bias, requires_grad=False)
        self.in_features, self.out_features = self.levels.shape
        self.limits = None
        if grid is not None:
            self.register_buffer("step", nonzero(grid.step))
            self.register_buffer("zero", grid.zero.to(torch.int8 if grid.low < 0 else torch.uint8))
            limits = torch.iinfo(self.zero.dtype)
            if (grid.low, grid.high) != (limits.min, limits.max) and grid.high - grid.low < 254:
                self.limits = tuple(float((end - grid.zero) * self.step) for end in (grid.low, grid.high))

    @property
    def weight(self) -> Tensor:
        """`(out, in)` float32."""
        plain = (self.levels * self.scale).t()
        return plain if self.offset is None else plain + self.offset.unsqueeze(1)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        x = shift_and_scale(x, self.shift, self.divisor)
        if self.dynamic:
            y = _DynamicProduct.apply(x, self.levels, self.scale)
        elif self.quantizer is not None:
            x, y = self._product_as_trained(x)
        else:
            x = self._quantized(x)
            y = torch.matmul(x, _Dequantize.apply(self.levels, self.scale, 1))
        if self.offset is not None:
            y = y + x.sum(-1, keepdim=True) * self.offset
        return y + self.bias

    def _product_as_trained(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The quantized input, and its product."""
        codes, grid = self.quantizer.encode(x)
        sums = _IntegerProduct.apply(codes.to(torch.int8 if grid.low < 0 else torch.uint8), self.levels)
        y = (sums - grid.zero * self.column_sum) * (grid.step * self.scale)
        return self.quantizer.decode(codes, grid), y

    def _quantized(self, x: Tensor) -> Tensor:
        if "step" not in self._buffers:
            return x
        return _FakeQuantize.apply(x if self.limits is None else x.clamp(*self.limits), self.step, self.zero)


class PortableEmbedding(nn.Module):
    """A packed table as int8 levels with a scale per row."""

    def __init__(self, table: PackedEmbedding):
        super().__init__()
        matrix = IntegerMatrix.of(table)
        self.register_buffer("levels", matrix.levels.contiguous())
        self.register_buffer("scale", matrix.scale.unsqueeze(1).contiguous())
        self.register_buffer("offset", None if matrix.offset is None else matrix.offset.unsqueeze(1).contiguous())
        self.num_embeddings, self.embedding_dim = self.levels.shape
        self.padding_idx, self.scalar_embed_scale = table.padding_idx, table.scalar_embed_scale

    @property
    def weight(self) -> Tensor:
        """`(rows, width)` float32."""
        plain = _Dequantize.apply(self.levels, self.scale.flatten(), 0)
        return plain if self.offset is None else plain + self.offset

    def forward(self, ids: Tensor) -> Tensor:
        """`(...)` ids to `(..., width)`."""
        rows = F.embedding(ids, self.levels).to(torch.float32) * F.embedding(ids, self.scale)
        rows = rows if self.offset is None else rows + F.embedding(ids, self.offset)
        return rows if self.scalar_embed_scale == 1 else rows * self.scalar_embed_scale


class PortableDecoder(nn.Module):
    """A decoder that reads a table's levels."""

    def __init__(self, table: PortableEmbedding, bias: nn.Parameter | None):
        super().__init__()
        self._shared, self.bias = (table,), bias

    @property
    def weight(self) -> Tensor:
        """The table."""
        return self._shared[0].weight

    def forward(self, x: Tensor) -> Tensor:
        """`(..., width)` to `(..., rows)`."""
        return F.linear(x, self.weight, self.bias)


def make_portable(
    model: nn.Module,
    grids: Mapping[str, ActivationGrid],
    activations: str,
    linear: Callable[[PackedLinear, ActivationGrid | None, str], nn.Module] = PortableLinear,
) -> nn.Module:
    """Replace every packed layer, in place, and leave attention in float.

    Args:
        grids: of inputs that have a fixed one, by layer name.
        activations: what becomes of the others, as in `ExportRequest`.
        linear: makes what takes the place of a linear layer from it, its grid and `activations`.

    Raises:
        ValueError: where integer sums would not fit in 32 bits.
    """
    decoders, tables = [], {}
    for name, module in list(model.named_modules()):
        if isinstance(module, PackedLinear):
            if activations != "float" and module.in_features > MOST_COLUMNS:
                raise ValueError(
                    f"{name} has {module.in_features} columns, and integer sums of more than "
                    f"{MOST_COLUMNS} do not fit in 32 bits: export with activations='float'"
                )
            model.set_submodule(name, linear(module, grids.get(name), activations))
        elif isinstance(module, PackedEmbedding):
            tables[id(module)] = PortableEmbedding(module)
            model.set_submodule(name, tables[id(module)])
        elif isinstance(module, PackedTiedLinear):
            decoders.append((name, module))
        elif isinstance(module, PackedLayerNorm):
            model.set_submodule(name, _norm(module))
        elif isinstance(module, QuantizedDropout):
            model.set_submodule(name, nn.Dropout(module.p).train(module.training))
    for name, module in decoders:
        model.set_submodule(name, PortableDecoder(tables[id(module.embedding)], module.bias))
    return model


def _norm(packed: PackedLayerNorm) -> nn.LayerNorm:
    norm = nn.LayerNorm(packed.normalized_shape, packed.eps, bias=packed.bias is not None)
    norm.weight.data.copy_(packed.weight)
    if packed.bias is not None:
        norm.bias.data.copy_(packed.bias)
    return norm
