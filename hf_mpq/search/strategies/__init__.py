"""Strategies: how precisions are searched while weights are trained."""

from .base import STRATEGIES, Pass, Progress, SearchStrategy

__all__ = ["STRATEGIES", "Pass", "Progress", "SearchStrategy"]
