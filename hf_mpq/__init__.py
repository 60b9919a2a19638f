"""hf_mpq: mixed-precision quantization and sub-group pruning of BERT-family encoders for Hugging Face Transformers.

Importing it registers the quantization method `"mpq"` with transformers. What it offers is imported at its first use.
"""

from typing import TYPE_CHECKING

from ._compat import check_transformers
from ._lazy import lazily
from ._registration import register

if TYPE_CHECKING:
    from .compression import compress
    from .core import Assignment, Budget
    from .exporters import export
    from .plugin import MPQConfig, assignment_of, extract, fix, pack, quantize, reshape, set_precision, unpack
    from .report import size_report
    from .runtime import prepare, use_backend
    from .training import MPQTrainer, MPQTrainingArguments

__version__ = "0.1.0"

__all__ = [
    "Assignment",
    "Budget",
    "MPQConfig",
    "MPQTrainer",
    "MPQTrainingArguments",
    "Part",
    "assignment_of",
    "compress",
    "export",
    "extract",
    "fix",
    "pack",
    "prepare",
    "quantize",
    "reshape",
    "set_precision",
    "size_report",
    "unpack",
    "use_backend",
]

_ROOMS = (
    "compression",
    "core",
    "cost",
    "exporters",
    "format",
    "hub",
    "integrations",
    "methods",
    "nn",
    "outliers",
    "plugin",
    "report",
    "rounding",
    "runs",
    "runtime",
    "search",
    "sweep",
    "tasks",
    "training",
    "weights",
)
_HOMES = {
    "compression": ("compress",),
    "core": ("Assignment", "Budget", "Part"),
    "exporters": ("export",),
    "plugin": (
        "MPQConfig",
        "assignment_of",
        "extract",
        "fix",
        "pack",
        "quantize",
        "reshape",
        "set_precision",
        "unpack",
    ),
    "report": ("size_report",),
    "runtime": ("prepare", "use_backend"),
    "training": ("MPQTrainer", "MPQTrainingArguments"),
}
__getattr__ = lazily(__name__, {name: room for room, names in _HOMES.items() for name in names}, _ROOMS)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_ROOMS])


check_transformers()
register()
