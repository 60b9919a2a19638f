"""Packed twins: the same functions from stored codes, nothing to train."""

from .embedding import PackedEmbedding, PackedTiedLinear
from .linear import PackedLinear
from .matrix import PackedMatrix
from .module import PackedModule
from .norm import PackedLayerNorm
from .reference import only_reference, reference_backend

__all__ = [
    "PackedEmbedding",
    "PackedLayerNorm",
    "PackedLinear",
    "PackedMatrix",
    "PackedModule",
    "PackedTiedLinear",
    "only_reference",
    "reference_backend",
]
