"""Allocators: which precision each sub-group gets within a budget."""

from .base import ALLOCATORS, Allocator
from .bidirectional import Bidirectional
from .distortion import BelowThreshold
from .greedy import Greedy
from .lagrangian import Lagrangian, LagrangianResult, allocate, relax, solve
from .milp import IntegerProgram, program, solve_program
from .ranked import Ranked, rank, ranked_candidates
from .schemes import Schemes, paper_share, scheme_share
from .sorted_layers import SortedLayers
from .threshold import Thresholds
from .uniform import Uniform

__all__ = [
    "ALLOCATORS",
    "Allocator",
    "BelowThreshold",
    "Bidirectional",
    "Greedy",
    "IntegerProgram",
    "Lagrangian",
    "LagrangianResult",
    "Ranked",
    "Schemes",
    "SortedLayers",
    "Thresholds",
    "Uniform",
    "allocate",
    "paper_share",
    "program",
    "rank",
    "ranked_candidates",
    "relax",
    "scheme_share",
    "solve",
    "solve_program",
]
