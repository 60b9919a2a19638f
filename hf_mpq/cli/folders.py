"""Output folders that are there whole or not at all; what is replaced is only what was written here before."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError

MANIFEST = ".hf_mpq.json"
"""Names the files that a command wrote into its folder."""
PACKED_FILES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template.jinja",
)
"""What saving a packed model and its tokenizer writes."""


@contextmanager
def new_folder(path: Path, overwrite: bool = False, reading: Iterable[str | Path | None] = ()) -> Iterator[Path]:
    """A folder to write into, which becomes `path` when the block ends, and is removed when it fails.

    It is made at once, in a hidden folder of its own beside `path`, so that a place where nothing can be written is
    found before the work. With `overwrite`, files that hf_mpq wrote are replaced, and all others stay.

    Args:
        reading: what the command reads; names that are no paths here are passed over.

    Raises:
        UserError: `path` is a file, no name for a new folder, read from, stood in, or a folder that is not empty and
            must not be overwritten or that somebody else filled.
        OSError: nothing can be written there; the message has the name.
    """
    from ..core.files import naming
    from ..core.folders import hidden_folder, making

    if path.name in ("", ".."):
        raise UserError(f"{path} cannot be replaced as a whole: give --out the name of a folder in it")
    path, shown = path.absolute(), path
    with naming(path.parent), making(path.parent):
        _recover(path)
        _check_place(path, shown, reading)
        older = _written(path, shown, overwrite)
        with hidden_folder(path.parent, _prefix(path)) as hidden, naming(path, hidden / "new"):
            new = hidden / "new"
            new.mkdir()
            yield new
            files = {name: _digest(new / name) for name in _files(new)}
            if path.is_dir() and not path.is_symlink():
                _keep(path, new, older, shown)
            (new / MANIFEST).write_text(json.dumps({"files": files}))
            _take_place(new, path, hidden / "old")


def _prefix(path: Path) -> str:
    return f".{path.name}.hf_mpq-"


def _check_place(path: Path, shown: Path, reading: Iterable[str | Path | None]) -> None:
    """Raise UserError where a folder cannot take the place of `path`."""
    if path.is_file():
        raise UserError(f"{shown} is a file: give another --out")
    place = path.resolve()
    for source in (Path(one) for one in reading if one is not None and Path(one).exists()):
        if source.resolve().is_relative_to(place):
            where = "is" if source.resolve() == place else "holds"
            raise UserError(f"{shown} {where} {source}, which is read: give another --out")
    if Path.cwd().is_relative_to(place):
        raise UserError(f"{shown} is the folder that this runs in, or holds it: give another --out")


def _written(path: Path, shown: Path, overwrite: bool) -> set[str]:
    """Names of the files in a folder that hf_mpq wrote; raises UserError where it may not be replaced."""
    present = path.is_dir() and any(path.iterdir())
    if not present:
        return set()
    if not overwrite:
        raise UserError(f"{shown} is not empty: give another --out, or --overwrite")
    if path.is_symlink():  # the link is replaced, and not what is in the folder that it points to
        return set()
    if (path / MANIFEST).is_file():
        return {MANIFEST, *_unchanged(path, _content(path / MANIFEST).get("files"))}
    described = _content(path / "config.json").get("quantization_config") or {}
    if described.get("quant_method") != "mpq" or described.get("storage") == "trainable":
        names = ", ".join(sorted(file.name for file in path.iterdir())[:3])
        raise UserError(f"{shown} holds what hf-mpq did not write ({names}): give another --out, or remove it yourself")
    return {file.name for pattern in PACKED_FILES for file in path.glob(pattern)}


def _content(file: Path) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    return content if isinstance(content, dict) else {}


def _unchanged(folder: Path, written: Any) -> set[str]:
    """Of the files in a list, those that are still as they were written: what somebody saved since under such a name is
    his own."""
    listed = written if isinstance(written, dict) else {}
    return {
        name for name, digest in listed.items() if os.path.lexists(folder / name) and _digest(folder / name) == digest
    }


def _digest(file: Path) -> str:
    if file.is_symlink():
        return f"link to {os.readlink(file)}"
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _files(folder: Path) -> list[str]:
    return sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_symlink() or not file.is_dir()
    )


def _keep(path: Path, new: Path, older: set[str], shown: Path) -> None:
    """Give the new folder the files that others put into the old one."""
    theirs = [name for name in _files(path) if name not in older]
    clash = [name for name in theirs if os.path.lexists(new / name)]
    if clash:
        raise UserError(
            f"{shown} holds {', '.join(clash[:3])}, which hf-mpq did not write, or which somebody changed since, "
            "and would replace: give another --out, or move it away"
        )
    for name in theirs:
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path / name, new / name, follow_symlinks=False)
        except OSError:  # a file system without links
            shutil.copy2(path / name, new / name, follow_symlinks=False)


def _take_place(new: Path, path: Path, old: Path) -> None:
    """What was there comes back unless the new folder has its name."""
    try:
        if os.path.lexists(path):
            path.replace(old)
        new.replace(path)
    except BaseException:
        if os.path.lexists(old) and not path.exists():
            old.replace(path)
        raise


def _recover(path: Path) -> None:
    """Put back what a process that was killed between its two renames moved away."""
    from ..core.folders import abandoned

    for hidden in abandoned(path.parent, _prefix(path)):
        if os.path.lexists(hidden / "old") and not os.path.lexists(path):
            (hidden / "old").replace(path)
