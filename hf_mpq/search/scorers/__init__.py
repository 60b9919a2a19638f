"""How much each (sub-group, precision) hurts, before any training."""

from .base import SCORERS, Scorer
from .distance import DistanceScorer
from .fisher import FisherScorer

__all__ = ["SCORERS", "DistanceScorer", "FisherScorer", "Scorer"]
