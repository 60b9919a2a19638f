"""The C++ kernel, built on the user's machine at its first use."""

import hashlib
import logging
import os
import shutil
import sys
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

    It is built once per Python, torch, version of the sources and CPU (about a minute), and kept in the folder that
    `torch.utils.cpp_extension` uses (`TORCH_EXTENSIONS_DIR`).
    """
    if not _can_build():
        warnings.warn("g++ and ninja build the fused encoder layers of cpu-int8, and are not here: products are "
                      "integer, all else runs as in the packed model", stacklevel=2)  # fmt: skip
        return None
    try:
        return _built()
    except (RuntimeError, OSError, ImportError) as error:
        warnings.warn(f"the fused layers of cpu-int8 could not be built, and are left out: {error}", stacklevel=2)
        return None


def state() -> str:
    """Of the kernel, without building it: `"built"`, `"not built"`, or `"no compiler"`."""
    if not _can_build():
        return "no compiler"
    return "built" if _file().exists() else "not built"


def _can_build() -> bool:
    return shutil.which("g++") is not None and shutil.which("ninja") is not None


def _file() -> Path:
    """Where it is, or will be: of its own for each place of torch and of the sources, both of which are in the build's
    commands, so that one build does not undo another."""
    from torch.utils.cpp_extension import get_default_build_root

    name = f"hf_mpq_int8_{fingerprint(torch.__file__, str(SOURCES))}"
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root(), name, f"{name}.so")


def _built() -> ModuleType:
    from torch.utils.cpp_extension import load

    file = _file()
    folder = file.parent
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "building.lock"):  # the system frees it when a process dies
        (folder / "lock").unlink(missing_ok=True)  # torch's own mark, for which the next build would wait for ever
        if not file.exists():
            logger.warning("building the fused layers of cpu-int8, once for this machine; about a minute")
        sources = [str(SOURCES / "layer.cpp")]
        return load(file.stem, sources, extra_cflags=list(FLAGS), build_directory=str(folder))


def fingerprint(*more: str) -> str:
    """Of the kernel's sources, Python, torch and the CPU: of all that the built file, and how fast it is, depend on.

    Args:
        more: that makes another one.
    """
    parts = [path.read_bytes() for path in sorted(SOURCES.iterdir())]
    words = (sys.implementation.cache_tag or "", torch.__version__, *FLAGS, _cpu(), *more)
    return hashlib.sha256(b"\0".join([*parts, *(word.encode() for word in words)])).hexdigest()[:12]


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
