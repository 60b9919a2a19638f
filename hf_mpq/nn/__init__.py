"""Drop-in layers, their packed twins, and the ways between them."""

from .attention import AttentionQuantizers
from .calibration import calibrate_activations
from .convert import convert, dequantize_modules, initialise, pack_modules
from .embedding import MPQEmbedding, MPQTiedLinear
from .families import Family, family_of
from .linear import MPQLinear
from .naming import absolute_name, relative_name
from .norm import MPQLayerNorm
from .packed import PackedEmbedding, PackedLayerNorm, PackedLinear, PackedTiedLinear
from .walk import derive, fix, set_precision, update_quantizers, usages

__all__ = [
    "AttentionQuantizers",
    "Family",
    "MPQEmbedding",
    "MPQLayerNorm",
    "MPQLinear",
    "MPQTiedLinear",
    "PackedEmbedding",
    "PackedLayerNorm",
    "PackedLinear",
    "PackedTiedLinear",
    "absolute_name",
    "calibrate_activations",
    "convert",
    "dequantize_modules",
    "derive",
    "family_of",
    "fix",
    "initialise",
    "pack_modules",
    "relative_name",
    "set_precision",
    "update_quantizers",
    "usages",
]
