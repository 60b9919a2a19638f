"""Whether a built file is the one that was built: its digest beside it, and nobody else who can write to either."""

import hashlib
import os
import stat
from pathlib import Path


def seal(file: Path) -> None:
    """Write the digest of a file beside it."""
    _seal(file).write_text(_digest(file))


def intact(file: Path) -> bool:
    """Whether a file is there as it was sealed.

    Raises:
        PermissionError: when another user than this one and root owns it, its seal or its folder, or may write to them.
    """
    if not (file.is_file() and _seal(file).is_file()):
        return False
    for path in (file.parent, file, _seal(file)):
        refuse_foreign(path)
    return _seal(file).read_text().strip() == _digest(file)


def refuse_foreign(path: Path) -> None:
    """Raise PermissionError where another user than this one and root owns a path, or may write to it."""
    found = path.stat()
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(
            f"{path} belongs to another user, or others may write to it, and code from there is not run: "
            "chown and chmod go-w it, or set TORCH_EXTENSIONS_DIR to a folder of your own"
        )


def _seal(file: Path) -> Path:
    return file.with_suffix(".sha256")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
