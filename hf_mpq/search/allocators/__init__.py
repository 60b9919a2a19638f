"""Allocators: which precision each sub-group gets within a budget."""

from .base import ALLOCATORS, EVALUATIONS, SCORELESS, Allocator
from .distortion import allocate_below_threshold
from .greedy import allocate_greedy
from .lagrangian import LagrangianResult, allocate, solve
from .milp import ProgramResult, allocate_program, solve_program
from .ranked import allocate_ranked, ranked_candidates
from .sorted_layers import allocate_sorted_layers
from .threshold import allocate_by_thresholds
from .uniform import allocate_uniform

__all__ = [
    "ALLOCATORS",
    "EVALUATIONS",
    "SCORELESS",
    "Allocator",
    "LagrangianResult",
    "ProgramResult",
    "allocate",
    "allocate_below_threshold",
    "allocate_by_thresholds",
    "allocate_greedy",
    "allocate_program",
    "allocate_ranked",
    "allocate_sorted_layers",
    "allocate_uniform",
    "ranked_candidates",
    "solve",
    "solve_program",
]
