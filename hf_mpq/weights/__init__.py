"""Sources, transforms, masks, quantizers and gates: from stored parameters to the weight that is used in forward."""

from .activations import ACTIVATIONS, ActivationQuantizer, OpenActivation
from .choice import Choice
from .encodings import ENCODINGS, Encoding
from .gates import GATES, Gate
from .masks import MASKS, WeightMask
from .program import PrecisionCodes, WeightProgram
from .quantizers import QUANTIZERS, GridQuantizer, WeightQuantizer
from .sources import SOURCES, Source
from .transforms import TRANSFORMS, WeightTransform

__all__ = [
    "ACTIVATIONS",
    "ENCODINGS",
    "GATES",
    "MASKS",
    "QUANTIZERS",
    "SOURCES",
    "TRANSFORMS",
    "ActivationQuantizer",
    "Choice",
    "Encoding",
    "Gate",
    "GridQuantizer",
    "OpenActivation",
    "PrecisionCodes",
    "Source",
    "WeightMask",
    "WeightProgram",
    "WeightQuantizer",
    "WeightTransform",
]
