"""Training-free compression: scores, bits for a budget, rounding."""

from .._extras import require

with require("train", "hf_mpq.compress"):
    from .compress import compress

__all__ = ["compress"]
