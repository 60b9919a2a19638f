"""Search: what each precision costs in quality, and which to choose."""

from .allocators import ALLOCATORS, Allocator, LagrangianResult, allocate
from .scorers import SCORERS, Scorer

__all__ = ["ALLOCATORS", "SCORERS", "Allocator", "LagrangianResult", "Scorer", "allocate"]
