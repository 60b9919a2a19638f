"""What a kill at any moment of some work would leave on the disk."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")
_RECORDERS: list[Callable[[], None]] = []


def _hook(event: str, arguments: tuple) -> None:
    """Just before a file is opened for writing, renamed or removed."""
    if _RECORDERS and (event in CHANGES or (event == "open" and "r" not in str(arguments[1] or "r"))):
        _RECORDERS[-1]()


def _telling(write: Callable) -> Callable:
    """Safetensors writes its files in Rust, where no hook hears of it."""

    def told(*args, **kwargs):
        _hook("os.rename", ())
        return write(*args, **kwargs)

    return told


_INSTALLED: list[bool] = []


@contextmanager
def moments(folder: Path, copies: Path) -> Iterator[list[Path]]:
    """Copies of `folder`, as it is before each change of any file while the block runs, and after it."""
    found: dict[tuple, Path] = {}

    def record() -> None:
        _RECORDERS.append(lambda: None)
        try:
            state = _state(folder)
            if state not in found:
                found[state] = copies / str(len(found))
                shutil.copytree(folder, found[state], symlinks=True)
        finally:
            _RECORDERS.pop()

    if not _INSTALLED:  # it stays for good, so it does nothing elsewhere
        sys.addaudithook(_hook)
        _INSTALLED.append(True)
    result: list[Path] = []
    write = safetensors.torch.serialize_file
    safetensors.torch.serialize_file = _telling(write)
    _RECORDERS.append(record)
    try:
        yield result
    finally:
        _RECORDERS.pop()
        safetensors.torch.serialize_file = write
        record()
        result.extend(found.values())


def _state(folder: Path) -> tuple:
    files = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
    return tuple((str(path.relative_to(folder)), path.stat().st_ino, path.stat().st_size) for path in files)
