"""Search: what each precision costs in quality, and which to choose."""

from .allocators import ALLOCATORS, Allocator, LagrangianResult, allocate
from .judge import Judge
from .scorers import SCORERS, Scorer

__all__ = ["ALLOCATORS", "SCORERS", "Allocator", "Judge", "LagrangianResult", "Scorer", "allocate"]
