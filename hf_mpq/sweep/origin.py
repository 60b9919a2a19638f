"""Where a row of results comes from."""

import subprocess
from datetime import date
from pathlib import Path

import torch
import transformers

from ..runtime.machine import machine


def origin() -> dict[str, str]:
    """The day, the processor with its instructions and threads, the commit of this package where it runs from a
    repository, versions."""
    cpu = torch.cuda.get_device_name() if torch.cuda.is_available() else machine()["cpu"]
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        "date": date.today().isoformat(),
        "machine": f"{cpu} ({capability}, {torch.get_num_threads()} thread(s))",
        "commit": _commit() or "unknown",
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
    }


def _commit() -> str:
    """Empty where this file belongs to no repository, but to an environment that may lie within another one."""
    ours = _git("ls-files", Path(__file__).name)
    return _git("describe", "--always", "--dirty") if ours else ""


def _git(*words: str) -> str:
    try:
        return subprocess.run(["git", *words], capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
    except OSError:  # no git here
        return ""
