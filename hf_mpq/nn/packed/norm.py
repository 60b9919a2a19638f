"""The packed layer normalisation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core import from_bytes
from ...core.storage import ITEM_BYTES
from .module import PackedModule


class PackedLayerNorm(PackedModule):
    """Twin of `MPQLayerNorm`, with the parameters of every nested precision, lower ones first.

    Args:
        features: size of the normalised axis.
        eps: added to the variance.
        has_bias: whether there is a bias.
        float_dtype: stored type.
        precisions: nested precisions with their own parameters, ascending; empty for a single set.
    """

    def __init__(
        self,
        features: int,
        eps: float,
        has_bias: bool,
        float_dtype: str,
        precisions: tuple[int, ...] = (),
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ):
        super().__init__(dtype, device)
        self.normalized_shape, self.eps, self.float_dtype, self.precisions = (features,), eps, float_dtype, precisions
        self.position = max(len(precisions) - 1, 0)
        size = features * ITEM_BYTES[float_dtype] * max(len(precisions), 1)
        self.register_buffer("weight_values", torch.empty(size, dtype=torch.uint8, device=device))
        if has_bias:
            self.register_buffer("bias_values", torch.empty(size, dtype=torch.uint8, device=device))

    @property
    def weight(self) -> Tensor:
        """The active weight, decoded."""
        return self._active(self.weight_values)

    @property
    def bias(self) -> Tensor | None:
        """The active bias, decoded; None without one."""
        return self._active(self.bias_values) if "bias_values" in self._buffers else None

    def _active(self, octets: Tensor) -> Tensor:
        values = from_bytes(octets, getattr(torch, self.float_dtype)).view(-1, *self.normalized_shape)
        return values[self.position].to(self.compute_dtype)

    def float_parts(self) -> dict[str, torch.dtype]:
        return dict.fromkeys(self._buffers, getattr(torch, self.float_dtype))

    def set_precision(self, bits: int) -> None:
        """Use the parameters of `bits`; without switchable parameters nothing changes."""
        if self.precisions:
            self.position = self.precisions.index(bits)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
