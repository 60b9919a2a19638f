"""What runs a packed model: for now, physically smaller matrices."""

from .compaction import CompactLinear, compact

__all__ = ["CompactLinear", "compact"]
