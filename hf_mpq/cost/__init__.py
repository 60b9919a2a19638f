"""What an assignment costs: bytes, bits and bit operations, exactly and in expectation."""

from .base import COSTS, CostModel
from .bops import BitOperations
from .limit import measure
from .paper import AverageBits, PaperSize
from .size import StoredSize, float_bytes

__all__ = [
    "COSTS",
    "AverageBits",
    "BitOperations",
    "CostModel",
    "PaperSize",
    "StoredSize",
    "float_bytes",
    "measure",
]
