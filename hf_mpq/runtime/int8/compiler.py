"""The C++ compiler of this machine, and one call of it."""

import os
import shlex
import shutil
import signal
import subprocess
import sysconfig
from pathlib import Path

KERNEL = Path(__file__).parent / "kernel"
FLAGS = ("-O3", "-march=native", "-mprefer-vector-width=512", "-fno-math-errno", "-fno-trapping-math", "-fopenmp")
SECONDS = 600
"""That a compiler may take; it takes about a minute."""


def compiler() -> list[str] | None:
    """The compiler's command, which `CXX` may name; None where it is not installed."""
    command = shlex.split(os.environ.get("CXX") or "c++")
    return command if shutil.which(command[0]) else None


def compiled(command: list[str], to: Path) -> Path:
    """Build the kernel as a Python module that has the name of the file `to`; returns that file.

    Raises:
        RuntimeError: when the compiler fails, or has not ended after `SECONDS`.
    """
    from torch.utils.cpp_extension import include_paths, library_paths

    includes = [f"-isystem{path}" for path in (*include_paths(), sysconfig.get_path("include"))]
    libraries = [*(f"-L{path}" for path in library_paths()), "-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"]
    names = (f"-DTORCH_EXTENSION_NAME={to.stem}", "-DTORCH_API_INCLUDE_EXTENSION_H")
    source = str(KERNEL / "layer.cpp")
    _run([*command, *FLAGS, "-std=c++20", "-fPIC", "-shared", *names, *includes, source, "-o", str(to), *libraries])
    return to


def _run(command: list[str]) -> None:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{command[0]} did not end within {SECONDS} seconds") from None
    finally:
        if process.poll() is None:  # with all that it has started
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode:
        lines = said.strip().splitlines() or [f"exit code {process.returncode}"]
        raise RuntimeError(f"{command[0]} fails: {next((line for line in lines if 'error' in line), lines[-1])}")
