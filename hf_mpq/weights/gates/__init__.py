"""Gates: what yields the precision of each sub-group."""

from .base import GATES, Gate
from .fixed import FixedGate
from .following import FollowingGate
from .gumbel import GumbelGate
from .learned_range import LearnedRangeGate
from .neighbour import NeighbourGate
from .sampled import SampledGate
from .softmax import SoftmaxGate
from .switch import SwitchGate

__all__ = [
    "GATES",
    "FixedGate",
    "FollowingGate",
    "Gate",
    "GumbelGate",
    "LearnedRangeGate",
    "NeighbourGate",
    "SampledGate",
    "SoftmaxGate",
    "SwitchGate",
]
