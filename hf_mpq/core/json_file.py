"""JSON files of our own, read with one clear error."""

import json
from pathlib import Path
from typing import Any


def read_json(path: str | Path, remedy: str = "write or copy it again") -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        remedy: what the error tells to do.

    Raises:
        FileNotFoundError: when it is not there.
        ValueError: when it is no regular file (a pipe or a device would not end), or holds no JSON object.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file: {remedy}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged, it is no JSON ({error}): {remedy}") from error
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply to be read: {remedy}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__} where a JSON object belongs: {remedy}")
    return content
