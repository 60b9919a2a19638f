"""The packed linear layer."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core import MatrixStorage, from_bytes
from ...weights import ActivationQuantizer
from ..affine import IDENTITY, ChannelAffine
from ..correction import LowRank
from .matrix import PackedMatrix


class PackedLinear(ChannelAffine, LowRank, PackedMatrix):
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

    def channel_values(self, name: str) -> Tensor | None:
        if name not in self.stored.affine:
            return None
        values = self._floats(f"input_{name}_values")
        full = values.new_full((self._width,), IDENTITY[name])
        full[self.stored_channels()] = values
        return full

    def factors(self) -> tuple[Tensor, Tensor] | None:
        rank = self.stored.rank
        if not rank:
            return None
        values = self._floats("low_rank_rows"), self._floats("low_rank_columns")
        rows, columns = values[0].new_zeros(self.stored.layout.shape[0], rank), values[1].new_zeros(rank, self._width)
        rows[self.stored_rows()] = values[0].view(-1, rank)
        columns[:, self.stored_channels()] = values[1].view(rank, -1)
        return rows, columns

    def full_weight(self) -> Tensor:
        """The weight that is multiplied with, `(out, in)` float32."""
        return self.corrected(self.decode())

    @property
    def weight(self) -> Tensor:
        """The decoded and corrected weight, `(out, in)`."""
        return self.full_weight().to(self.compute_dtype)

    @property
    def _width(self) -> int:
        return self.stored.layout.shape[1]

    def _floats(self, name: str) -> Tensor:
        return from_bytes(self._octets(name), getattr(torch, self.stored.float_dtype))

    def stored_channels(self) -> Tensor:
        """Input channels that are stored, `(in,)` bool: column blocks store dead ones too."""
        if self.stored.layout.axis == 0:
            return self.column_flags()
        return torch.ones(self._width, dtype=torch.bool, device=self.device)

    def stored_rows(self) -> Tensor:
        """Rows that are not pruned, `(out,)` bool."""
        layout = self.stored.layout
        if layout.axis == 0:
            return layout.expand(self.group_bits()) > 0
        return torch.ones(layout.shape[0], dtype=torch.bool, device=self.device)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalised(x)
        product = self.in_place()
        if product is not None:
            y = product(x)
        else:
            y = F.linear(x if self.input_quantizer is None else self.input_quantizer(x), self.weight, self.bias)
        return y if self.output_quantizer is None else self.output_quantizer(y)

    def extra_repr(self) -> str:
        used = f", used at {self.used_precision} bits" if self.nested else ""
        return f"in_features={self.in_features}, out_features={self.out_features}, rows={dict(self.stored.lines)}{used}"
