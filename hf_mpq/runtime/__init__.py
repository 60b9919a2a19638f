"""What runs a packed model: physically smaller matrices, and backends in place of decoding."""

from .backends import BACKENDS, Backend, use_backend
from .compaction import CompactLinear, compact
from .prepare import prepare

__all__ = ["BACKENDS", "Backend", "CompactLinear", "compact", "prepare", "use_backend"]
