"""How much each (sub-group, precision) hurts, before any training."""

from .base import SCORERS, Scorer
from .class_importance import ClassImportanceScorer
from .distance import DistanceScorer
from .distribution import DistributionScorer, distortions, threshold_bits
from .divergence import Reference, divergence, mean_divergence, reference_of
from .fisher import FisherScorer
from .gradient import GradientScorer
from .hessian import HessianScorer
from .kl import DivergenceScorer, only_groups
from .outputs import output_divergence

__all__ = [
    "SCORERS",
    "ClassImportanceScorer",
    "DistanceScorer",
    "DistributionScorer",
    "DivergenceScorer",
    "FisherScorer",
    "GradientScorer",
    "HessianScorer",
    "Reference",
    "Scorer",
    "distortions",
    "divergence",
    "mean_divergence",
    "only_groups",
    "output_divergence",
    "reference_of",
    "threshold_bits",
]
