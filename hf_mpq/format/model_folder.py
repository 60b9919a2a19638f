"""Saving over a model: while its files take their places, config.json says that the folder cannot be loaded."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..core.folders import together
from .store import PackedFormatError

UNFINISHED = "unfinished"
"""The storage of a folder whose files are of two saves."""


def model_folder(folder: str | Path) -> AbstractContextManager[Path]:
    """A hidden folder to save a model and what belongs to it in; all of it takes its place when the block ends.

    Raises:
        OSError: something cannot be written; `folder` is then as it was.
    """
    return together(folder, _unfinished)


def check_finished(config: Mapping[str, Any]) -> None:
    """Raise PackedFormatError for the `quantization_config` of a folder whose save did not end."""
    if config.get("storage") == UNFINISHED:
        raise PackedFormatError(
            "a save into this folder was interrupted, so its files are of two models: save it again"
        )


def _unfinished(config: str) -> str:
    content = json.loads(config)
    return json.dumps({**content, "quantization_config": {"quant_method": "mpq", "storage": UNFINISHED}}, indent=2)
