"""Layer normalisation whose parameters are rounded to their stored type, with one set per precision if asked."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import to_stored_type
from ..weights.roles import PerPrecision


class MPQLayerNorm(PerPrecision, nn.LayerNorm):
    """An `nn.LayerNorm` with stored-type parameters.

    Args of `from_norm`:
        precisions: nested precisions, ascending, that each get their own affine parameters (switchable normalisation);
            `weight` and `bias` are the highest's, `lower_weight` and `lower_bias` `(precisions - 1, features)` the
            others'. Empty for a single set.
    """

    by_precision = frozenset({"lower_weight", "lower_bias"})

    @classmethod
    def from_norm(cls, norm: nn.LayerNorm, float_dtype: str, precisions: tuple[int, ...] = ()) -> "MPQLayerNorm":
        """Take over the parameters of `norm`."""
        layer = cls(norm.normalized_shape, norm.eps, True, norm.bias is not None, device="meta")
        layer.weight, layer.bias = norm.weight, norm.bias
        layer.float_dtype, layer.precisions = float_dtype, precisions
        layer.position = max(len(precisions) - 1, 0)
        lower = layer.position
        if lower:
            layer.lower_weight = nn.Parameter(norm.weight.detach().repeat(lower, 1))
            layer.lower_bias = None if norm.bias is None else nn.Parameter(norm.bias.detach().repeat(lower, 1))
        return layer.train(norm.training)

    def calibrate(self) -> None:
        """Start every precision from the loaded parameters."""
        if self.precisions[1:]:
            with torch.no_grad():
                self.lower_weight.copy_(self.weight.expand_as(self.lower_weight))
                if self.bias is not None:
                    self.lower_bias.copy_(self.bias.expand_as(self.lower_bias))

    def set_precision(self, bits: int) -> None:
        """Use the parameters of `bits`; without switchable parameters nothing changes."""
        if self.precisions:
            self.position = self.precisions.index(bits)

    def affine(self, position: int) -> tuple[Tensor, Tensor | None]:
        """Weight and bias at a position of `precisions`, rounded to their stored type."""
        weight, bias = self.weight, self.bias
        if position < len(self.precisions) - 1:
            weight = self.lower_weight[position]
            bias = None if bias is None else self.lower_bias[position]
        dtype = getattr(torch, self.float_dtype)
        return to_stored_type(weight, dtype), None if bias is None else to_stored_type(bias, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, *self.affine(self.position), self.eps)
