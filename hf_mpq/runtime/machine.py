"""What was measured on this machine, kept on disk."""

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock

from ..cost import LatencyTable
from .int8.build import fingerprint, state

FOLDER = "~/.cache/hf_mpq"
_HERE = Path(__file__).parent


def machine() -> dict[str, Any]:
    """What the speed of a prepared model depends on besides the model: the CPU and its flags, cores (those that this
    process may use too) and threads, torch and transformers, the code that runs it, and whether its kernel is built."""
    code = hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(_HERE.rglob("*.py"))))
    return {"cpu": _cpu_name(), "cores": os.cpu_count(), "affinity": _affinity(), "threads": torch.get_num_threads(),
            "torch": torch.__version__, "transformers": transformers.__version__, "kernel": state(),
            "kernel and flags": fingerprint(), "code": code.hexdigest()[:12]}  # fmt: skip


def remembered(measured: Mapping[str, Any], measure: Callable[[], LatencyTable]) -> LatencyTable:
    """The table of an earlier measurement on this machine; where there is none, or its file is damaged, a new one.

    It is kept in the folder `HF_MPQ_CACHE`, by default `~/.cache/hf_mpq`, as of the machine that it left: the first
    measurement may build the kernel. Of several processes one measures.

    Args:
        measured: what the table is of, JSON-able.
        measure: makes it.
    """
    file, _ = _place(measured)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        table = _read(_place(measured)[0])
        if table is None:
            table = measure()
            file, words = _place(measured)
            _write(file, {**words, "table": table.to_dict()})
    return table


def _place(measured: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The file of a table on the machine as it is now, and the words that its name is made of."""
    words = {"machine": machine(), "measured": measured}
    key = hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:16]
    return Path(os.environ.get("HF_MPQ_CACHE", FOLDER)).expanduser() / f"latency-{key}.json", words


def _read(file: Path) -> LatencyTable | None:
    try:
        return LatencyTable.from_dict(json.loads(file.read_text())["table"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(file: Path, content: Mapping[str, Any]) -> None:
    """All of it or nothing."""
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as partial:
        json.dump(content, partial, indent=1)
    Path(partial.name).replace(file)


def _affinity() -> list[int] | None:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
                platform.processor())  # fmt: skip
