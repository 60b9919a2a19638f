"""What is given in place of a model, and what to give instead."""

from pathlib import Path
from typing import Any

from torch import nn


def check_is_module(model: Any) -> None:
    """Raise ValueError when it is no module of torch: a folder, a list of models, or what holds one."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"{_what(model)} is no model: {_instead(model)}")


def in_python(name: str) -> str:
    """How the module of a dotted name is written: `"0.encoder"` is `"model[0].encoder"`."""
    return "model" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in name.split("."))


def _what(given: Any) -> str:
    return repr(str(given)) if isinstance(given, str | Path) else f"a {type(given).__name__}"


def _instead(given: Any) -> str:
    if isinstance(given, str | Path):
        return f"load it first, for example with AutoModelForSequenceClassification.from_pretrained({str(given)!r})"
    if isinstance(given, list | tuple):
        return "give its models one by one"
    if isinstance(getattr(given, "model", None), nn.Module):  # pipelines and trainers
        return "give its .model"
    return "give what from_pretrained returns"
