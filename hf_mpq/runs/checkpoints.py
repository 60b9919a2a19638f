"""Checkpoints of a stage in its folder: whole ones, and what is left of others."""

import re
import shutil
from pathlib import Path

from .files import COMPLETE

_FOLDER = re.compile(r"checkpoint-(\d+)")


def complete_checkpoints(folder: str | Path) -> list[Path]:
    """Whole checkpoints in a folder, oldest first."""
    found = [
        (int(match[1]), path)
        for path in Path(folder).glob("checkpoint-*")
        if (match := _FOLDER.fullmatch(path.name)) and (path / COMPLETE).exists()
    ]
    return [path for _, path in sorted(found)]


def remove_partial_checkpoints(folder: str | Path) -> None:
    """Delete what a process that was killed while it saved or deleted a checkpoint left behind."""
    whole = complete_checkpoints(folder)
    for path in Path(folder).glob("checkpoint-*"):
        if _FOLDER.fullmatch(path.name) and path not in whole:
            shutil.rmtree(path)
