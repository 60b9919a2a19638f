"""Output folders that are there whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from .errors import UserError


@contextmanager
def new_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write into, which becomes `path` when the block ends, and is removed when it fails.

    It is made at once, in a hidden folder of its own beside `path`, so that a place where nothing can be written is
    found before the work.

    Raises:
        UserError: `path` is a file, a folder that is not empty and must not be overwritten, or no name for a new one.
    """
    if path.is_file():
        raise UserError(f"{path} is a file: give another --out")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise UserError(f"{path} is not empty: give another --out, or --overwrite")
    if path.name in ("", ".."):
        raise UserError(f"{path} cannot be replaced as a whole: give --out the name of a folder in it")
    with _parents_of(path), TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent,
                                               ignore_cleanup_errors=True) as hidden:  # fmt: skip
        new = Path(hidden, "new")
        new.mkdir()
        yield new
        _take_place(new, path, Path(hidden, "old"))


@contextmanager
def _parents_of(path: Path) -> Iterator[None]:
    """The folders above `path`; those that were not there go again when the block fails."""
    missing = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()
        raise


def _take_place(new: Path, path: Path, old: Path) -> None:
    """What was there comes back unless the new folder has its name."""
    try:
        if path.exists():
            path.replace(old)
        new.replace(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.replace(path)
        raise
