"""Old import paths, for one release: `hf_mpq.integrations.vocabulary` has moved."""

from typing import Any

from .._moved import moved

_NAMES = {
    "PrunedVocabulary": "hf_mpq.compression.vocabulary:PrunedVocabulary",
    "prune_vocabulary": "hf_mpq.compression.vocabulary:prune_vocabulary",
    "restore_vocabulary": "hf_mpq.compression.vocabulary:restore_vocabulary",
}


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return moved(f"hf_mpq.integrations.vocabulary.{name}", _NAMES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
