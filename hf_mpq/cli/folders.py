"""Output folders that are there whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError


@contextmanager
def new_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write into, beside `path`: it becomes `path` when the block ends, and is removed when it fails.

    It is made at once, so that a place where nothing can be written is found before the work.

    Raises:
        UserError: `path` is a file, or a folder that is not empty and must not be overwritten.
    """
    if path.is_file():
        raise UserError(f"{path} is a file: give another --out")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise UserError(f"{path} is not empty: give another --out, or --overwrite")
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        _take_place(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _take_place(partial: Path, path: Path) -> None:
    """What was there goes only after the new folder has its name."""
    old = path.with_name(f"{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.replace(old)
    partial.replace(path)
    shutil.rmtree(old, ignore_errors=True)
