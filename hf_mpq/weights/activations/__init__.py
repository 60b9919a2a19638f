"""Activation quantizers; every grid contains exact zero."""

from .base import ACTIVATIONS, ActivationGrid, ActivationQuantizer
from .basis import BasisActivation, FixedBasisQuantizer
from .dynamic import DynamicTensorQuantizer, DynamicTokenQuantizer
from .fixed import FixedGridQuantizer
from .learned import LearnedOffsetQuantizer
from .learned_range import LearnedRangeActivation
from .open import OpenActivation
from .probabilities import ProbabilityQuantizer
from .static import StaticQuantizer

__all__ = [
    "ACTIVATIONS",
    "ActivationGrid",
    "ActivationQuantizer",
    "BasisActivation",
    "DynamicTensorQuantizer",
    "DynamicTokenQuantizer",
    "FixedBasisQuantizer",
    "FixedGridQuantizer",
    "LearnedOffsetQuantizer",
    "LearnedRangeActivation",
    "OpenActivation",
    "ProbabilityQuantizer",
    "StaticQuantizer",
]
