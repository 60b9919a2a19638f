"""Packed twins: the same functions from stored codes, nothing to train."""

from .active import activated, active_backend, refuse_export
from .embedding import PackedEmbedding, PackedTiedLinear
from .linear import PackedLinear
from .matrix import PackedMatrix
from .module import PackedModule
from .norm import PackedLayerNorm

__all__ = [
    "PackedEmbedding",
    "PackedLayerNorm",
    "PackedLinear",
    "PackedMatrix",
    "PackedModule",
    "PackedTiedLinear",
    "activated",
    "active_backend",
    "refuse_export",
]
