"""Files that take their places in a folder together, from a hidden one; what killed processes left goes."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from filelock import FileLock, Timeout

from .files import naming

CONFIG = "config.json"
_LAST = (CONFIG, "adapter_config.json")
"""Files without which nothing in their folder is loaded."""
_LOCK = ".hf_mpq-lock"
_PREFIX = ".hf_mpq-"
_WEIGHTS = re.compile(r"(?P<kind>model(\.\w+)??)(-\d{5}-of-\d{5})?\.safetensors(\.index(?P<variant>\.\w+)?\.json)?")


@contextmanager
def hidden_folder(place: Path, prefix: str = _PREFIX) -> Iterator[Path]:
    """A new folder in `place` while the block runs. Those of its prefix whose process is gone are removed."""
    for folder in abandoned(place, prefix):
        _remove(folder)
    folder = Path(mkdtemp(prefix=prefix, dir=place))
    try:
        with FileLock(folder / _LOCK):
            try:
                yield folder
            finally:  # the lock last, by which what a kill leaves is known
                for one in (one for one in folder.iterdir() if one.name != _LOCK):
                    _remove(one)
    finally:
        _remove(folder)


def _remove(path: Path) -> None:
    with suppress(OSError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def abandoned(place: Path, prefix: str = _PREFIX) -> Iterator[Path]:
    """The hidden folders that a process left which was killed: they are empty, or nobody holds their lock."""
    for folder in sorted(one for one in place.iterdir() if one.name.startswith(prefix) and one.is_dir()):
        try:
            if not any(folder.iterdir()):
                yield folder
            elif (folder / _LOCK).exists():
                with FileLock(folder / _LOCK, blocking=False):
                    yield folder
        except (Timeout, OSError):
            continue


@contextmanager
def together(folder: str | Path, unfinished: Callable[[str], str] | None = None) -> Iterator[Path]:
    """A hidden folder to write into; its files take their places in `folder` when the block ends.

    Until then `folder` is as it was. Weights of the same kind that are not among the new files go, other files stay;
    `config.json` comes last.

    Args:
        unfinished: makes, of the new `config.json`, the one that is there while files take their places.

    Raises:
        OSError: something cannot be written; the message has its name.
    """
    folder = Path(folder)
    with naming(folder), making(folder), hidden_folder(folder) as hidden, naming(folder, hidden / "new"):
        new = hidden / "new"
        new.mkdir()
        yield new
        if unfinished is not None and (new / CONFIG).exists():
            (hidden / CONFIG).write_text(unfinished((new / CONFIG).read_text(encoding="utf-8")), encoding="utf-8")
            os.replace(hidden / CONFIG, folder / CONFIG)
        _take_places(new, folder)


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """The folder, and those above it; what was not there before goes again when the block fails."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for one in missing:
            with suppress(OSError):
                one.rmdir()
        raise


def _take_places(new: Path, folder: Path) -> None:
    names = [file.relative_to(new) for file in sorted(new.rglob("*")) if not file.is_dir()]
    last = [name for name in names if str(name) in _LAST]
    others = [name for name in names if name not in last]
    readable = new.stat().st_mode & 0o666
    for name in names:
        mode = (new / name).stat().st_mode
        if not mode & 0o077:  # safetensors keeps others of the machine from its files, whatever the umask says
            (new / name).chmod(mode | readable)
    for name in others:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(new / name, folder / name)
    for file in _superseded(folder, others):
        file.unlink()
    for name in last:
        os.replace(new / name, folder / name)


def _superseded(folder: Path, written: list[Path]) -> list[Path]:
    """Weights of an earlier save: loading would prefer them, or read shards of two."""
    kinds = {_kind(str(name)) for name in written} - {None}
    return [file for file in folder.iterdir() if _kind(file.name) in kinds and Path(file.name) not in written]


def _kind(name: str) -> str | None:
    """`model`, with its variant, of a file of weights or their index; None of others."""
    found = _WEIGHTS.fullmatch(name)
    return found and found["kind"] + (found["variant"] or "")
