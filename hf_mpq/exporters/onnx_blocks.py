"""ONNX files whose matrices stay at 2, 4 or 8 bits in memory: `MatMulNBits` of ONNX Runtime."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn import PackedLinear
from ..nn.affine import shift_and_scale
from ..nn.integers import IntegerMatrix
from .base import EXPORTERS, Exporter, ExportRequest, has_uneven_inputs
from .configs import save_plain_config
from .onnx import OLDEST_TRACED, write_onnx

WIDTHS = (2, 4, 8)
"""Bits that the operator has."""
BLOCKS = (256, 128, 64, 32)
"""Columns that share a scale, and a range of activations."""
DOMAINS = {"com.microsoft": 1}
INTEGERS, FLOATS = 4, 1
"""Accuracy levels: inputs rounded to 8 bits in each block, or float32."""


@EXPORTERS.register("onnx-nbits")
class OnnxBlocksExporter(Exporter):
    """`model.onnx` with `com.microsoft.MatMulNBits`, dynamic batch and length, and `config.json`.

    Each matrix has the narrowest of 2, 4 and 8 bits that holds all its levels. ONNX Runtime rounds inputs to 8 bits in
    every block of a token, finer than a range for each token, unless `activations="float"`.
    """

    packages = ("onnx",)
    transformers = OLDEST_TRACED
    extra = "onnx"

    @classmethod
    def write(cls, model: nn.Module, folder: Path, request: ExportRequest) -> None:
        floats = request.activations == "float"
        if not floats and has_uneven_inputs(model):
            raise ValueError(
                "MatMulNBits has inputs of even levels, and those of this model have a learned basis: export it as "
                "'onnx', which keeps its levels, or with activations='float'"
            )
        accuracy = FLOATS if floats else INTEGERS
        write_onnx(
            model,
            folder / "model.onnx",
            request,
            linear=lambda layer, *_: BlockLinear(layer, accuracy),
            domains=DOMAINS,
        )
        save_plain_config(model, folder)


class Blocks(NamedTuple):
    """A matrix as the operator has it, and what it has not: `weight = (code - 2^(bits - 1)) * scale + offset`.

    Attributes:
        codes: `(out, blocks, bytes)` uint8, the first code in the lowest bits.
        scale: `(out, blocks)` float32.
        offset: `(out,)` float32; None where it is zero. ONNX Runtime has no fast products with zero points in float.
        bits: of a code.
        size: codes of a block.
    """

    codes: Tensor
    scale: Tensor
    offset: Tensor | None
    bits: int
    size: int

    @classmethod
    def of(cls, matrix: IntegerMatrix) -> "Blocks":
        """Of levels that are all odd (the half-step grid of 2 bits), two have one code between them."""
        levels = matrix.levels.to(torch.int16)
        step = 2 if bool((levels & 1).all()) else 1
        size = min(BLOCKS, key=lambda one: (-(-levels.shape[1] // one) * one, -one))
        count = -(-levels.shape[1] // size)
        lowest = [(bits, -(2 ** (bits - 1)) * step + step - 1) for bits in WIDTHS]
        bits, low = next(
            (bits, low) for bits, low in lowest if low <= levels.min() and levels.max() <= low + step * (2**bits - 1)
        )
        codes = F.pad((levels - low) // step, (0, count * size - levels.shape[1])).reshape(-1, 8 // bits)
        octets = sum(codes[:, place] << bits * place for place in range(8 // bits)).to(torch.uint8)
        scale = (matrix.scale * step).unsqueeze(1).expand(-1, count).contiguous()
        offset = matrix.offset
        if step == 2:
            offset = matrix.scale if offset is None else offset + matrix.scale
        return cls(octets.view(len(levels), count, -1), scale, offset, bits, size)


class _BlockProduct(torch.autograd.Function):
    """`MatMulNBits` with the weight of a layer, without its offset."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: "BlockLinear", codes: Tensor, scale: Tensor) -> Tensor:
        return x @ _decoded(codes, scale, layer.bits)[:, : layer.in_features].t()

    @staticmethod
    def symbolic(g, x, layer, codes, scale):
        sizes = {"K_i": layer.in_features, "N_i": layer.out_features, "bits_i": layer.bits, "block_size_i": layer.size}
        found = g.op("com.microsoft::MatMulNBits", x, codes, scale, accuracy_level_i=layer.accuracy, **sizes)
        others = [None] * (x.type().dim() - 1)  # batch and length stay open
        found.setType(x.type().with_sizes([*others, layer.out_features]))  # else torch warns: it knows no such operator
        return found


class BlockLinear(nn.Module):
    """A packed linear layer as one `MatMulNBits`.

    Args:
        layer: packed.
        accuracy: level of the operator.
    """

    def __init__(self, layer: PackedLinear, accuracy: int):
        super().__init__()
        matrix = IntegerMatrix.of(layer)
        self.shift, self.divisor = layer.input_shift, layer.input_scale
        self.out_features, self.in_features = matrix.levels.shape
        blocks = Blocks.of(matrix)
        self.bits, self.size, self.accuracy = blocks.bits, blocks.size, accuracy
        for name in ("codes", "scale", "offset"):
            self.register_buffer(name, getattr(blocks, name))
        self.register_buffer("bias", matrix.bias)

    @property
    def weight(self) -> Tensor:
        """`(out, in)` float32."""
        plain = _decoded(self.codes, self.scale, self.bits)[:, : self.in_features]
        return plain if self.offset is None else plain + self.offset.unsqueeze(1)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        x = shift_and_scale(x, self.shift, self.divisor)
        y = _BlockProduct.apply(x, self, self.codes, self.scale)
        if self.offset is not None:
            y = y + x.sum(-1, keepdim=True) * self.offset
        return y + self.bias


def _decoded(codes: Tensor, scale: Tensor, bits: int) -> Tensor:
    """What the operator multiplies with, `(out, blocks * size)` float32."""
    places = torch.arange(0, 8, bits, dtype=torch.uint8)
    found = codes.unsqueeze(-1) >> places & 2**bits - 1
    return ((found.flatten(2).float() - 2 ** (bits - 1)) * scale.unsqueeze(-1)).flatten(1)
