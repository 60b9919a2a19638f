"""Ranges of what is there now."""

from torch import Tensor

from .base import ACTIVATIONS, ActivationGrid, ActivationQuantizer


@ACTIVATIONS.register("dynamic-token")
class DynamicTokenQuantizer(ActivationQuantizer):
    """One range per token: over the last axis (ZeroQuant, Yao et al., 2022)."""

    name = "dynamic-token"

    def grid(self, x: Tensor) -> ActivationGrid:
        return self.grid_of_range(x.amin(dim=-1, keepdim=True), x.amax(dim=-1, keepdim=True))


@ACTIVATIONS.register("dynamic-tensor")
class DynamicTensorQuantizer(ActivationQuantizer):
    """One range for the whole tensor, padding included."""

    name = "dynamic-tensor"

    def grid(self, x: Tensor) -> ActivationGrid:
        return self.grid_of_range(x.amin(), x.amax())
