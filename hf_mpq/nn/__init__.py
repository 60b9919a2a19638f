"""Drop-in layers, their packed twins, and the ways between them."""

from .attention import AttentionQuantizers
from .blocks import BlockRecord, are_chained, encoder_blocks, record_blocks
from .calibration import calibrate_activations
from .convert import convert, dequantize_modules, initialise, pack_modules
from .embedding import MPQEmbedding, MPQTiedLinear
from .families import Family, family_of
from .linear import MPQLinear
from .low_rank import correct_low_rank
from .naming import (
    absolute_name,
    absolute_names,
    body_name,
    body_of,
    modules_by_name,
    relative_modules,
    relative_name,
    relative_names,
)
from .norm import MPQLayerNorm
from .packed import (
    PackedEmbedding,
    PackedLayerNorm,
    PackedLinear,
    PackedTiedLinear,
)
from .precision import set_precision
from .walk import derive, fix, update_quantizers, usages

__all__ = [
    "AttentionQuantizers",
    "BlockRecord",
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
    "absolute_names",
    "are_chained",
    "body_name",
    "body_of",
    "calibrate_activations",
    "convert",
    "correct_low_rank",
    "dequantize_modules",
    "derive",
    "encoder_blocks",
    "family_of",
    "fix",
    "initialise",
    "modules_by_name",
    "pack_modules",
    "record_blocks",
    "relative_modules",
    "relative_name",
    "relative_names",
    "set_precision",
    "update_quantizers",
    "usages",
]
