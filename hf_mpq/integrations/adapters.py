"""Old import paths, for one release: `hf_mpq.integrations.adapters` has moved."""

from typing import Any

from .._moved import moved

_NAMES = {
    "for_packed": "hf_mpq.plugin.lora:for_packed",
    "merge_adapters": "hf_mpq.plugin.lora:merge_adapters",
}


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return moved(f"hf_mpq.integrations.adapters.{name}", _NAMES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
