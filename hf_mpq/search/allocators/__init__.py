"""Allocators: which precision each sub-group gets within a budget."""

from .base import ALLOCATORS, Allocator
from .lagrangian import LagrangianResult, allocate, solve

__all__ = ["ALLOCATORS", "Allocator", "LagrangianResult", "allocate", "solve"]
