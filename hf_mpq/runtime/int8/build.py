"""The C++ kernel, built on the user's machine at its first use."""

import hashlib
import logging
import os
import shutil
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from filelock import FileLock

logger = logging.getLogger(__name__)

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
    try:
        return _built()
    except (RuntimeError, OSError, ImportError) as error:
        warnings.warn(f"the fused layers of cpu-int8 could not be built, and are left out: {error}", stacklevel=2)
        return None


def _built() -> ModuleType:
    from torch.utils.cpp_extension import get_default_build_root, load

    name = f"hf_mpq_int8_{fingerprint()}"
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root(), name)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "building.lock"):  # the system frees it when a process dies
        (folder / "lock").unlink(missing_ok=True)  # torch's own mark, for which the next build would wait for ever
        if not (folder / f"{name}.so").exists():
            logger.warning("building the fused layers of cpu-int8, once for this machine; about a minute")
        sources = [str(SOURCES / "layer.cpp")]
        return load(name, sources, extra_cflags=list(FLAGS), build_directory=str(folder))


def fingerprint() -> str:
    """Of the kernel's sources, torch and the CPU: of all that the built file, and how fast it is, depend on."""
    parts = [path.read_bytes() for path in sorted(SOURCES.iterdir())]
    parts += [torch.__version__.encode(), " ".join(FLAGS).encode(), _cpu().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
