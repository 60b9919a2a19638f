"""The C++ kernel, built on the user's machine at its first use."""

import hashlib
import shutil
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

SOURCES = Path(__file__).parent / "kernel"
FLAGS = ("-O3", "-march=native", "-mprefer-vector-width=512", "-fno-math-errno", "-fno-trapping-math", "-fopenmp")


@cache
def kernel() -> ModuleType | None:
    """The built kernel; None, with a warning that says why, where there is no compiler or it fails.

    It is built once per version of torch, of the sources and of the CPU (about a minute), and kept in the folder that
    `torch.utils.cpp_extension` uses (`TORCH_EXTENSIONS_DIR`).
    """
    if shutil.which("g++") is None or shutil.which("ninja") is None:
        warnings.warn("g++ and ninja build the fused encoder layers of cpu-int8, and are not here: products are "
                      "integer, all else runs as in the packed model", stacklevel=2)  # fmt: skip
        return None
    from torch.utils.cpp_extension import load

    try:
        return load(f"hf_mpq_int8_{_fingerprint()}", [str(SOURCES / "layer.cpp")], extra_cflags=list(FLAGS))
    except (RuntimeError, OSError, ImportError) as error:
        warnings.warn(f"the fused layers of cpu-int8 could not be built, and are left out: {error}", stacklevel=2)
        return None


def _fingerprint() -> str:
    """Of all that the built file depends on."""
    parts = [path.read_bytes() for path in sorted(SOURCES.iterdir())]
    parts += [torch.__version__.encode(), " ".join(FLAGS).encode(), _cpu().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
