"""The C++ kernel, built on the user's machine at its first use."""

import hashlib
import logging
import os
import shutil
import sys
import warnings
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import torch
from filelock import FileLock

from .compiler import FLAGS, KERNEL, SECONDS, compiled, compiler
from .seal import intact, refuse_foreign, seal

logger = logging.getLogger(__name__)


@cache
def kernel() -> ModuleType | None:
    """The built kernel; None, with a warning that says why, where there is no compiler or it fails.

    It is built once per Python, torch, version of the sources and CPU (about a minute), and kept in
    `TORCH_EXTENSIONS_DIR`, by default `~/.cache/torch_extensions`. What is there already, of this user or of root, is
    used as it is: nothing is written then, and no compiler is needed. A damaged file is built anew.
    """
    try:
        file = _file()
        if not intact(file):
            _build(file)
        return _imported(file)
    except (RuntimeError, OSError, ImportError) as error:
        warnings.warn(
            f"the fused encoder layers of cpu-int8 are left out (products are integer, all else runs as in "
            f"the packed model): {error}",
            stacklevel=2,
        )
        return None


def state() -> str:
    """Of the kernel, without building it: `"built"`, `"not built"`, or `"no compiler"`."""
    try:
        if intact(_file()):
            return "built"
    except OSError:
        pass
    return "no compiler" if compiler() is None else "not built"


def _file() -> Path:
    """Where it is, or will be: of its own for all that it depends on, so that one build does not undo another.

    Raises:
        OSError: when there is no folder for it that every process would find again.
    """
    cache_home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path(cache_home, "torch_extensions"))
    if not root.is_absolute():
        raise OSError(
            f"{root} is no absolute path, and code from the working folder is not run: set "
            "TORCH_EXTENSIONS_DIR to the folder that keeps the built kernel"
        )
    name = f"hf_mpq_int8_{fingerprint()}"
    return root / name / f"{name}.so"


def _build(file: Path) -> None:
    """Put the built kernel there, whole, and its seal beside it. Of several processes one builds."""
    command, folder = compiler(), file.parent
    if command is None:
        raise OSError("no C++ compiler builds them; install one (g++), or name it in CXX")
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    refuse_foreign(folder)
    with FileLock(folder / "building.lock", timeout=SECONDS):  # the system frees it when a process dies
        for left in folder.glob("building-*"):  # by such a process
            shutil.rmtree(left, ignore_errors=True)
        if not intact(file):
            logger.warning("building the fused layers of cpu-int8, once for this machine; about a minute")
            with TemporaryDirectory(dir=folder, prefix="building-") as scratch:
                made = compiled(command, Path(scratch, file.name))
                seal(made)
                for part in Path(scratch).iterdir():
                    part.chmod(0o755)
                    part.replace(folder / part.name)


def _imported(file: Path) -> ModuleType:
    spec = spec_from_file_location(file.stem, file)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fingerprint() -> str:
    """Of the kernel's sources, Python, torch and the CPU: of all that the built file, and how fast it is, depend on."""
    parts = [path.read_bytes() for path in sorted(KERNEL.iterdir())]
    words = (sys.implementation.cache_tag or "", torch.__version__, *FLAGS, _cpu())
    return hashlib.sha256(b"\0".join([*parts, *(word.encode() for word in words)])).hexdigest()[:12]


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
