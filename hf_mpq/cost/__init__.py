"""What an assignment costs: bytes, bits, bit operations, energy and activations, exactly and in expectation."""

from .activations import ActivationBytes
from .base import COSTS, CostModel
from .bops import BitOperations
from .energy import Energy
from .latency import Latency
from .latency_table import LatencyTable
from .limit import Limit, Limits, given_limits, limits_of, measure
from .paper import AverageBits, PaperSize
from .size import StoredSize, float_bytes

__all__ = [
    "COSTS",
    "ActivationBytes",
    "AverageBits",
    "BitOperations",
    "CostModel",
    "Energy",
    "Latency",
    "LatencyTable",
    "Limit",
    "Limits",
    "PaperSize",
    "StoredSize",
    "float_bytes",
    "given_limits",
    "limits_of",
    "measure",
]
