"""Search: what each precision costs in quality, and which to choose."""

from .allocators import ALLOCATORS, EVALUATIONS, SCORELESS, Allocator, LagrangianResult, allocate
from .scorers import SCORERS, Scorer

__all__ = ["ALLOCATORS", "EVALUATIONS", "SCORELESS", "SCORERS", "Allocator", "LagrangianResult", "Scorer", "allocate"]
