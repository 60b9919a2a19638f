"""What was measured on this machine, kept on disk."""

import hashlib
import json
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from filelock import FileLock

from ..core.files import write_text
from ..cost import LatencyTable
from ..cost.shape_latency import ShapeLatencies
from .int8.build import fingerprint, state
from .native import digest

Table = TypeVar("Table", LatencyTable, ShapeLatencies)

FOLDER = "~/.cache/hf_mpq"
_HERE = Path(__file__).parent


def machine() -> dict[str, Any]:
    """What the speed of a prepared model depends on besides the model: the CPU and its flags, cores (those that this
    process may use too) and threads, torch and transformers, the code that runs it, and whether its kernel is built."""
    code = hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(_HERE.rglob("*.py"))))
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "affinity": _affinity(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "kernel": state(),
        "native kernel": digest(),
        "kernel and flags": fingerprint(),
        "code": code.hexdigest()[:12],
    }


def remembered(measured: Mapping[str, Any], measure: Callable[[], Table], kind: type[Table] = LatencyTable) -> Table:
    """The table of an earlier measurement on this machine; where there is none, or its file is damaged, a new one.

    It is kept in the folder `HF_MPQ_CACHE`, by default `~/.cache/hf_mpq`, as of the machine that it left: the first
    measurement may build the kernel. Of several processes one measures. Where nothing can be written, it is not kept,
    which a warning says.

    Args:
        measured: what the table is of, JSON-able.
        measure: makes it.
        kind: of table.
    """
    table = _read(measured, kind)
    if table is not None:
        return table
    with ExitStack() as stack:
        with _warning():
            folder = _folder()
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock((folder / _name(_words(measured))).with_suffix(".lock")))
            table = _read(measured, kind)  # another process may have measured since
        if table is None:
            table = measure()
            with _warning():
                words = _words(measured)
                content = {**words, "table": table.to_dict(), "digest": _digest(table.to_dict())}
                write_text(_folder() / _name(words), json.dumps(content, indent=1))
    return table


def _folder() -> Path:
    """Raises RuntimeError where there is no home to look for it in."""
    return Path(os.environ.get("HF_MPQ_CACHE", FOLDER)).expanduser()


@contextmanager
def _warning() -> Iterator[None]:
    """A cache that cannot be written is no error; said once, as the same words are."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        warnings.warn(
            f"how long this model takes cannot be kept, and is measured anew each time ({reason}): set "
            "HF_MPQ_CACHE to a folder that can be written",
            stacklevel=3,
        )


def _words(measured: Mapping[str, Any]) -> dict[str, Any]:
    """What a table is of, and the machine as it is now."""
    return {"machine": machine(), "measured": measured}


def _digest(table: Mapping[str, Any]) -> str:
    """Of the numbers, against damage: other times would be believed."""
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:16]


def _name(words: Mapping[str, Any]) -> str:
    return f"latency-{hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:16]}.json"


def _read(measured: Mapping[str, Any], kind: type[Table]) -> Table | None:
    try:
        content = json.loads((_folder() / _name(_words(measured))).read_text())
        return kind.from_dict(content["table"]) if content["digest"] == _digest(content["table"]) else None
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        return None


def _affinity() -> list[int] | None:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
