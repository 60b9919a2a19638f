"""Weight quantizers, one idea per file."""

from .base import QUANTIZERS, WeightQuantizer
from .basis import BasisQuantizer
from .grid import Grid, GridQuantizer
from .learned_range import LearnedRangeQuantizer
from .lsq import LearnedStepQuantizer
from .minmax import MinMaxQuantizer
from .nested import NestedQuantizer
from .symmetric import SymmetricQuantizer

__all__ = [
    "QUANTIZERS",
    "BasisQuantizer",
    "Grid",
    "GridQuantizer",
    "LearnedRangeQuantizer",
    "LearnedStepQuantizer",
    "MinMaxQuantizer",
    "NestedQuantizer",
    "SymmetricQuantizer",
    "WeightQuantizer",
]
