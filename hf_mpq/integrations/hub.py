"""Old import paths, for one release: `hf_mpq.integrations.hub` has moved."""

from typing import Any

from .._moved import moved

_NAMES = {
    "CardFacts": "hf_mpq.hub:CardFacts",
    "push": "hf_mpq.hub:push",
    "push_model": "hf_mpq.hub:push_model",
}


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return moved(f"hf_mpq.integrations.hub.{name}", _NAMES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
