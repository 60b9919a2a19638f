"""What runs a packed model: physically smaller matrices, and backends in place of decoding."""

from .compaction import CompactLinear, compact
from .prepare import BACKENDS, prepare

__all__ = ["BACKENDS", "CompactLinear", "compact", "prepare"]
