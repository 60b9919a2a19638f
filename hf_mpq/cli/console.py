"""Where commands write: results to stdout, everything else to stderr; plain and quiet where nobody watches."""

import json
import os
import sys
from collections.abc import Mapping
from math import isfinite
from typing import Any

import typer
from rich.console import Console


def screen(**options: Any) -> Console:
    """The console of results; colours only on a terminal."""
    return Console(highlight=False, **options)


def say(text: str) -> None:
    """A line about what happens, to stderr; what files of others bring into it does nothing to the terminal."""
    from ..core.plain_text import plain

    Console(stderr=True, highlight=False, soft_wrap=True).print(plain(text), markup=False)


def watched() -> bool:
    """Whether somebody looks at stderr, so that progress is worth showing."""
    return Console(stderr=True).is_terminal


def quiet_libraries() -> None:
    """No progress bars of the libraries where nobody watches, whether they are imported already or will be."""
    if watched():
        return
    for variable in ("HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS"):  # transformers'
        os.environ.setdefault(variable, "1")
    for module, function in (
        ("datasets", "disable_progress_bars"),
        ("huggingface_hub.utils", "disable_progress_bars"),
        ("transformers.utils.logging", "disable_progress_bar"),
    ):
        if module in sys.modules:
            getattr(sys.modules[module], function)()


def print_json(content: Any) -> None:
    """A result for programs; numbers that are not finite, for which JSON has no word, as null."""
    typer.echo(json.dumps(_in_json(content), indent=2, allow_nan=False))


def _in_json(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _in_json(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_in_json(value) for value in content]
    return None if isinstance(content, float) and not isfinite(content) else content
