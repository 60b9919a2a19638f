"""Gates: what yields the precision of each sub-group."""

from .base import GATES, Gate
from .fixed import FixedGate
from .following import FollowingGate
from .gumbel import GumbelGate
from .learned_range import LearnedRangeGate
from .neighbour import NeighbourGate
from .planes import BitSelectionGate, PlaneGate
from .sampled import SampledGate
from .softmax import SoftmaxGate
from .stripped import StrippedPlanesGate
from .switch import SwitchGate
from .width import WidthGate

__all__ = [
    "GATES",
    "BitSelectionGate",
    "FixedGate",
    "FollowingGate",
    "Gate",
    "GumbelGate",
    "LearnedRangeGate",
    "NeighbourGate",
    "PlaneGate",
    "SampledGate",
    "SoftmaxGate",
    "StrippedPlanesGate",
    "SwitchGate",
    "WidthGate",
]
