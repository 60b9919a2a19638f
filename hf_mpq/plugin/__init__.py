"""The plugin for transformers: config, quantizer, and the verbs on whole models."""

from ..compression.compress import compress
from ..exporters import export
from ..runtime.latency import latency_table
from .config import MPQConfig
from .quantizer import MPQHfQuantizer
from .verbs import assignment_of, fix, pack, quantize, set_precision, unpack

__all__ = [
    "MPQConfig",
    "MPQHfQuantizer",
    "assignment_of",
    "compress",
    "export",
    "fix",
    "latency_table",
    "pack",
    "quantize",
    "set_precision",
    "unpack",
]
