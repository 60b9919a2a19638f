"""Allocators: which precision each sub-group gets within a budget."""

from .base import ALLOCATORS, Allocator
from .distortion import BelowThreshold
from .greedy import Greedy
from .lagrangian import Lagrangian, LagrangianResult, allocate, solve
from .milp import IntegerProgram, ProgramResult, solve_program
from .ranked import Ranked, ranked_candidates
from .sorted_layers import SortedLayers
from .threshold import Thresholds
from .uniform import Uniform

__all__ = [
    "ALLOCATORS",
    "Allocator",
    "BelowThreshold",
    "Greedy",
    "IntegerProgram",
    "Lagrangian",
    "LagrangianResult",
    "ProgramResult",
    "Ranked",
    "SortedLayers",
    "Thresholds",
    "Uniform",
    "allocate",
    "ranked_candidates",
    "solve",
    "solve_program",
]
