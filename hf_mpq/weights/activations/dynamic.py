"""Ranges of what is there now."""

import torch
from torch import Tensor

from ...core import replace_forward
from ..compilation import compiled_when_large
from .base import ACTIVATIONS, ActivationGrid, ActivationQuantizer, nonzero


@ACTIVATIONS.register("dynamic-token")
class DynamicTokenQuantizer(ActivationQuantizer):
    """One range per token: over the last axis (ZeroQuant, Yao et al., 2022)."""

    name = "dynamic-token"

    def grid(self, x: Tensor) -> ActivationGrid:
        return self.grid_of_range(x.amin(dim=-1, keepdim=True), x.amax(dim=-1, keepdim=True))

    def fake_quantized(self, x: Tensor) -> Tensor:
        if not x.requires_grad:  # one pass alone is not worth a compiler's time
            return super().fake_quantized(x)
        rows = x.detach().reshape(-1, x.shape[-1])
        return replace_forward(x, rounded_rows(rows, self.bits, self.symmetric).view(x.shape))


@ACTIVATIONS.register("dynamic-tensor")
class DynamicTensorQuantizer(ActivationQuantizer):
    """One range for the whole tensor, padding included."""

    name = "dynamic-tensor"

    def grid(self, x: Tensor) -> ActivationGrid:
        return self.grid_of_range(x.amin(), x.amax())


@compiled_when_large
def rounded_rows(x: Tensor, bits: int, symmetric: bool) -> Tensor:
    """What `DynamicTokenQuantizer(bits, symmetric).rounded(x)` gives of `(rows, features)`, as one operation."""
    low, high = x.amin(dim=-1, keepdim=True).float(), x.amax(dim=-1, keepdim=True).float()
    if symmetric:
        highest = 2 ** (bits - 1) - 1
        step, least, most = torch.maximum(low.abs(), high.abs()) / highest, -highest, highest
        value = torch.round(x.float() / nonzero(step)).clamp(least, most)
    else:
        low, high = low.clamp(max=0), high.clamp(min=0)
        step = (high - low) / (2**bits - 1)
        size = nonzero(step)
        least = torch.round(low / size)
        value = torch.round(x.float() / size)
        value = torch.minimum(torch.maximum(value, least), least + (2**bits - 1))
    return (value * step).to(x.dtype)
