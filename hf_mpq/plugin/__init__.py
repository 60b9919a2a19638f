"""The plugin for transformers: config, quantizer, and the verbs on whole models."""

from .config import MPQConfig
from .extraction import extract
from .precision import set_precision
from .quantizer import MPQHfQuantizer
from .reshape import reshape
from .verbs import assignment_of, fix, pack, quantize, unpack

__all__ = [
    "MPQConfig",
    "MPQHfQuantizer",
    "assignment_of",
    "extract",
    "fix",
    "pack",
    "quantize",
    "reshape",
    "set_precision",
    "unpack",
]
