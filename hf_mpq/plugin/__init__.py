"""The plugin for transformers: config, quantizer, and the verbs on whole models."""

from .config import MPQConfig
from .quantizer import MPQHfQuantizer
from .verbs import assignment_of, fix, pack, quantize, set_precision, unpack

__all__ = [
    "MPQConfig",
    "MPQHfQuantizer",
    "assignment_of",
    "fix",
    "pack",
    "quantize",
    "set_precision",
    "unpack",
]
