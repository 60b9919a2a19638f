"""Files that are there whole or not at all: written under a hidden name beside, then renamed."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM)
_IN_RUST = re.compile(r"\(os error (\d+)\)")


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path to write to; the file gets its own name when the block ends, and is removed when the block fails.

    Raises:
        OSError: it cannot be written, or is a folder; the message has its name.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, give the name of a file", str(path))
    if path.exists() and not path.is_file():  # a device, a pipe: written as it comes
        yield path
        return
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        with naming(path, partial):
            yield partial
            if path.exists():
                shutil.copymode(path, partial)
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write all of a text file or nothing; raises OSError with its name."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def naming(path: Path, hidden: Path | None = None) -> Iterator[None]:
    """Errors of writing name the file, whichever library they come from.

    Args:
        path: what is written.
        hidden: where it is written for now; what lies in there is named as it will be called.

    Raises:
        OSError: where the block met one.
    """
    try:
        yield
    except Exception as error:
        found = system_error(error)
        if found is None:
            raise
        name = Path(found.filename) if isinstance(found.filename, str | os.PathLike) else path
        if hidden is not None and name.is_relative_to(hidden):
            name = path / name.relative_to(hidden)
        if found is error and str(name) == str(found.filename):
            raise
        raise OSError(found.errno, found.strerror, str(name)) from error


def system_error(error: BaseException) -> OSError | None:
    """The system's error in one of writing: libraries in Rust raise kinds of their own. None where it is another."""
    if isinstance(error, OSError):
        known = error.errno in _OF_WRITING or (error.errno is not None and error.filename is not None)
        return error if known else None
    found = _IN_RUST.search(str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None
