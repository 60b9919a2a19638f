"""Search: what each precision costs in quality, and which to choose."""

from .allocators import ALLOCATORS, Allocator, LagrangianResult, allocate

__all__ = ["ALLOCATORS", "Allocator", "LagrangianResult", "allocate"]
