"""hf_mpq: mixed-precision quantization and sub-group pruning of BERT-family encoders for Hugging Face Transformers.

Importing it registers the quantization method `"mpq"` with transformers.
"""

from ._compat import check_transformers

check_transformers()

from . import methods, nn, runtime  # noqa: E402, F401
from .core import Assignment, Budget  # noqa: E402
from .integrations import (  # noqa: E402
    MPQConfig,
    assignment_of,
    compress,
    export,
    fix,
    pack,
    quantize,
    set_precision,
    unpack,
)
from .report import size_report  # noqa: E402
from .runtime import prepare, use_backend  # noqa: E402
from .training import MPQTrainer, MPQTrainingArguments  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "Assignment",
    "Budget",
    "MPQConfig",
    "MPQTrainer",
    "MPQTrainingArguments",
    "assignment_of",
    "compress",
    "export",
    "fix",
    "pack",
    "prepare",
    "quantize",
    "set_precision",
    "size_report",
    "unpack",
    "use_backend",
]
