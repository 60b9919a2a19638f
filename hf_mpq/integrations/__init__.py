"""The plugin for transformers: config, quantizer, and the verbs on whole models."""

from .api import assignment_of, fix, pack, quantize, set_precision, unpack
from .compress import compress
from .config import MPQConfig
from .exporters import export
from .latency import latency_table
from .quantizer import MPQHfQuantizer

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
