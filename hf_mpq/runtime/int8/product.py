"""One linear layer as an integer product."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...nn import PackedLinear
from ...nn.integers import IntegerMatrix
from ..later import Deferred

ONEDNN = torch.ops.onednn
SYMMETRIC_ZERO = 128
"""Added to symmetric levels, which oneDNN reads as unsigned bytes."""


def unsupported() -> str | None:
    """Why this machine has no exact integer products; None where it does."""
    if not torch.backends.mkldnn.is_available() or not hasattr(ONEDNN, "qlinear_pointwise"):
        return "this build of torch has no oneDNN, which multiplies the integers"
    if not (torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported()):
        return "this CPU has neither AVX512-VNNI nor AMX, without which sums of 8-bit products saturate"
    return None


class Int8Product(Deferred):
    """Stands in for a packed linear layer's decoding.

    `y = step (q W_int - zero column_sum) scale + bias` with the activation's integer levels q, per token or per tensor
    as trained; the integer sums are exact, and equal to those of the packed layer's fake-quantized product up to
    float32 rounding. Where gradients are asked for, the packed layer's own fake-quantized product runs.

    Where a whole layer in one call, or the kernel's own product, takes its place, its weight is never laid out.

    Args:
        layer: with an activation quantizer, on the CPU.

    Raises:
        ValueError: when the layer's input is not quantized.
    """

    def __init__(self, layer: PackedLinear):
        if layer.input_quantizer is None:
            raise ValueError(
                "cpu-int8 multiplies integers, but the inputs of this model's layers are float: train or compress with "
                "activation_bits=8, or call hf_mpq.prepare(model, backend='cpu-float')"
            )
        self.layer, self.quantizer = layer, layer.input_quantizer

    def _make(self) -> tuple:
        """Weight in oneDNN's layout, its scales and zero points, column sums, offset and bias."""
        matrix = IntegerMatrix.of(self.layer)
        return *prepacked(matrix), matrix.column_sum, matrix.offset, matrix.bias

    def __call__(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`, in the type of `x`."""
        if torch.is_grad_enabled() and x.requires_grad:
            return F.linear(self.quantizer(x), self.layer.weight, self.layer.bias)
        packed, scale, zeros, column_sum, offset, bias = self.ready()
        tokens = x.reshape(-1, x.shape[-1])
        codes, grid = self.quantizer.encode(tokens)
        shift = SYMMETRIC_ZERO if grid.low < 0 else 0
        raw = ONEDNN.qlinear_pointwise(
            (codes + shift).to(torch.uint8),
            1.0,
            0,
            packed,
            scale,
            zeros,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        y = (raw - (grid.zero + shift) * column_sum) * grid.step
        if offset is not None:
            sums = (codes - grid.zero).sum(-1, keepdim=True)
            y = y + grid.step * sums * offset
        return (y + bias).to(x.dtype).view(*x.shape[:-1], len(bias))


def prepacked(matrix: IntegerMatrix) -> tuple[Tensor, Tensor, Tensor]:
    """Weight in oneDNN's own layout, its scales and zero points."""
    zeros = torch.zeros(len(matrix.scale), dtype=torch.int32)
    return ONEDNN.qlinear_prepack(matrix.levels.contiguous(), None), matrix.scale.contiguous(), zeros
