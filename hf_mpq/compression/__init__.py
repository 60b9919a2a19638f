"""Training-free compression: scores, bits for a budget, rounding."""

from .compress import compress

__all__ = ["compress"]
