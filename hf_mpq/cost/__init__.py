"""What an assignment costs: bytes, bits, bit operations and energy, exactly and in expectation."""

from .base import COSTS, CostModel
from .bops import BitOperations
from .energy import Energy
from .latency import Latency
from .latency_table import LatencyTable
from .limit import budget_cost, measure
from .paper import AverageBits, PaperSize
from .size import StoredSize, float_bytes

__all__ = [
    "COSTS",
    "AverageBits",
    "BitOperations",
    "CostModel",
    "Energy",
    "Latency",
    "LatencyTable",
    "PaperSize",
    "StoredSize",
    "budget_cost",
    "float_bytes",
    "measure",
]
