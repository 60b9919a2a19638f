"""Strategies: how precisions are searched while weights are trained."""

from .alternating import Alternating
from .base import STRATEGIES, Pass, Progress, SearchStrategy
from .bilevel import Bilevel
from .gate_search import GateSearch
from .joint import Joint
from .penalties import PENALTIES, Penalty
from .projection import likeliest

__all__ = [
    "PENALTIES",
    "STRATEGIES",
    "Alternating",
    "Bilevel",
    "GateSearch",
    "Joint",
    "Pass",
    "Penalty",
    "Progress",
    "SearchStrategy",
    "likeliest",
]
