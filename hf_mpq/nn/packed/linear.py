"""The packed linear layer."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core import MatrixStorage
from ...weights import ActivationQuantizer
from .matrix import PackedMatrix


class PackedLinear(PackedMatrix):
    """Twin of `MPQLinear`: decodes its weight in each forward pass.

    Attributes:
        compacted: whether the products are smaller than the stored matrix.
    """

    compacted = False

    def __init__(
        self,
        stored: MatrixStorage,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
        input_quantizer: ActivationQuantizer | None = None,
    ):
        super().__init__(stored, dtype, device)
        self.out_features, self.in_features = stored.layout.shape
        self.input_quantizer = input_quantizer
        self.output_quantizer: ActivationQuantizer | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        y = F.linear(x, self.weight, self.bias)
        return y if self.output_quantizer is None else self.output_quantizer(y)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, rows={dict(self.stored.lines)}"
