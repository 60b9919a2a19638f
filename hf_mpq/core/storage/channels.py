"""What is stored for each row and each input channel: which are there, biases, scales and shifts of the input."""

from dataclasses import dataclass
from math import ceil

from ..layout import SubgroupLayout
from .sizes import ITEM_BYTES


@dataclass(frozen=True)
class ChannelStorage:
    """Live rows and columns, with the values of each.

    Attributes:
        layout, length, bias, affine, float_dtype: as of `MatrixStorage`.
    """

    layout: SubgroupLayout
    length: int
    bias: int | None
    affine: tuple[str, ...]
    float_dtype: str

    @property
    def count(self) -> int:
        """Input channels that are stored."""
        return self.length if self.layout.axis == 0 else self.layout.shape[1]

    def buffers(self) -> dict[str, int]:
        """Name to bytes of each stored tensor."""
        rows, item = self.layout.shape[0], ITEM_BYTES[self.float_dtype]
        dead = self.length < self.layout.line_length
        sizes = {
            "live_columns": ceil(self.layout.line_length / 8) if dead else 0,
            "bias_values": 0 if self.bias is None else self.bias * item,
            "live_rows": ceil(rows / 8) if self.bias is not None and self.bias < rows else 0,
        }
        return sizes | {f"input_{name}_values": self.count * item for name in self.affine}
