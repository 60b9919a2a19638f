"""Schedules: what changes by time inside a stage and is no search."""

from .admm import ADMM
from .base import SCHEDULES, Schedule
from .bit_sparsity import BitSparsity
from .gradual_pruning import GradualPruning
from .reinitialise import Reinitialise
from .turbulence import Turbulence

__all__ = ["ADMM", "SCHEDULES", "BitSparsity", "GradualPruning", "Reinitialise", "Schedule", "Turbulence"]
