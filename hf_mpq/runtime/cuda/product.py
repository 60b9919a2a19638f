"""One linear layer as an integer product on tensor cores."""

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...nn import PackedLinear
from .codes import InputCodes, fixed_grid, plain_codes
from .integer_rows import IntegerRows
from .planes import PlaneTable

ALIGNMENT = 16
"""Rows and columns are padded to multiples of it. `torch._int_mm` asks for 8; rows of whole 16 bytes are aligned."""
LEAST_TOKENS = 32
"""Fewer are padded to as many: the product wants more than 16."""
FEW_TOKENS = 32
"""Up to so many, codes of few bits are unpacked inside the product, which then waits for memory only. Where a dense
product of bytes gets faster depends on the GPU; benchmarks/bench_cuda.py shows it."""
KERNEL_TYPES = (torch.float16, torch.bfloat16, torch.float32)


class Epilogue(NamedTuple):
    """What turns integer sums into outputs: `((sums - zero column_sum) scale + offset counts) step + bias`.

    `counts` is the sum of the input's levels over the columns that offsets reach; the product computes it as one more
    row of ones behind the others, the last of `column_sum`.

    Attributes:
        column_sum: of the levels of each row, `(out,)` or with offsets `(out + 1,)`, int32.
        scale, bias: `(out,)` float32.
        offset: `(out,)` float32 or None.
    """

    column_sum: Tensor
    scale: Tensor
    offset: Tensor | None
    bias: Tensor


class TensorCoreProduct:
    """Stands in for a packed linear layer's decoding; runs on every device, in the same steps.

    The input is quantized as trained, levels 0 to 255 moved to -128 to 127. Sums, and what a zero point takes from
    them, are int32 and exact for up to 65,000 columns: equal on every device and in both kinds of product. What
    follows is float32: one rounding of the sum above 2^24, one for each of the two scales, the offset and the bias, and
    one to the type of the output. A low-rank correction is two thin products in that type.

    Where gradients are asked for, the packed layer's own fake-quantized product runs.

    Args:
        layer: with an activation quantizer.
        kernels: as of `kernels_for`; None takes torch's operators for what surrounds the product.
        few_tokens: up to so many, bit planes are read instead, where `PlaneTable.of` can.
    """

    def __init__(self, layer: PackedLinear, kernels: ModuleType | None = None, few_tokens: int = FEW_TOKENS):
        rows = IntegerRows.of(layer)
        self.layer, self.quantizer, self.kernels, self.few_tokens = layer, layer.input_quantizer, kernels, few_tokens
        self.table = None if kernels is None or not rows.exact else PlaneTable.of(layer)
        live = rows.live.to(torch.int8).unsqueeze(0)
        counted = rows.levels if rows.offset is None else torch.cat([rows.levels, live])
        self.epilogue = Epilogue(counted.sum(1, dtype=torch.int32), rows.scale, rows.offset, rows.bias)
        self.weight = F.pad(counted, (0, -counted.shape[1] % ALIGNMENT, 0, -len(counted) % ALIGNMENT)).contiguous()
        self.factors = None if rows.factors is None else [part.to(layer.compute_dtype) for part in rows.factors]
        self.fixed = fixed_grid(self.quantizer, rows.scale.device)

    def __call__(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`, in the type of `x`."""
        if torch.is_grad_enabled() and x.requires_grad:
            return F.linear(self.quantizer(x), self.layer.weight, self.layer.bias)
        tokens = x.reshape(-1, x.shape[-1])
        fused = not torch.compiler.is_compiling() and self.kernels is not None and x.dtype in KERNEL_TYPES
        y = self._fused(tokens.contiguous()) if fused and x.numel() else self._plain(tokens)
        return y.view(*x.shape[:-1], self.layer.out_features)

    def _plain(self, tokens: Tensor) -> Tensor:
        codes = plain_codes(self.quantizer, tokens, self.weight.shape[1], LEAST_TOKENS)
        return self._corrected(finished(self._sums(codes)[: len(tokens)], codes, self.epilogue, tokens.dtype), codes)

    def _fused(self, tokens: Tensor) -> Tensor:
        codes = self.kernels.input_codes(self.quantizer, self.fixed, tokens, self.weight.shape[1], LEAST_TOKENS)
        if self.table is not None and len(tokens) <= self.few_tokens:
            y = self.kernels.integer_product(codes, self.table, self.epilogue, len(tokens), tokens.dtype)
        else:
            y = self.kernels.finished(self._sums(codes), codes, self.epilogue, len(tokens), tokens.dtype)
        return self._corrected(y, codes)

    def _sums(self, codes: InputCodes) -> Tensor:
        """`(tokens, out)` int32, both padded."""
        return torch._int_mm(codes.levels, self.weight.t())

    def _corrected(self, y: Tensor, codes: InputCodes) -> Tensor:
        if self.factors is None:
            return y
        values = codes.values(len(y), self.layer.in_features).to(y.dtype)
        rows, columns = (part.to(y.dtype) for part in self.factors)
        return y + F.linear(F.linear(values, columns), rows)


def finished(sums: Tensor, codes: InputCodes, epilogue: Epilogue, dtype: torch.dtype) -> Tensor:
    """Outputs of integer sums `(tokens, padded rows)`, by torch's operators: `(tokens, out)`."""
    rows = len(epilogue.scale)
    exact = sums[:, : len(epilogue.column_sum)] - codes.zero * epilogue.column_sum
    y = exact[:, :rows].float() * epilogue.scale
    if epilogue.offset is not None:
        y = y + exact[:, rows:].float() * epilogue.offset
    return (y * codes.step + epilogue.bias).to(dtype)
