"""The class that a config names: one of transformers, or one whose code lies beside the config."""

from pathlib import Path

import transformers
from transformers import PretrainedConfig


class ClassNotFound(OSError):
    """Transformers has no class of that name."""


class CodeNotTrusted(OSError):
    """The class is in code that lies beside the config and may not be run."""


def architecture(config: PretrainedConfig) -> str:
    """Name of the class that the model was saved with."""
    return (config.architectures or ["AutoModel"])[0]


def class_of(config: PretrainedConfig, trust_remote_code: bool = False) -> type | None:
    """The class whose `from_pretrained` loads the model with the head that it was saved with.

    For code beside the config that is an auto class, to be called with `trust_remote_code=True` itself.

    Args:
        config: of the model.
        trust_remote_code: whether code beside the config may be run.

    Returns:
        None where transformers has no such class, and code beside the config is not there or not trusted.
    """
    auto = code_beside(config) if trust_remote_code else None
    return getattr(transformers, auto or architecture(config), None)


def loader_of(place: str | Path, config: PretrainedConfig, trust_remote_code: bool = False) -> tuple[type, dict]:
    """The class that loads the model of a place, and what its `from_pretrained` must be told beside the place.

    Raises:
        ClassNotFound: transformers has no such class.
        CodeNotTrusted: its code lies beside the config, and is not trusted.
    """
    kind, code = class_of(config, trust_remote_code), code_beside(config)
    if kind is None and code is not None:
        raise CodeNotTrusted(f"{place} has code of its own for its model, which is not run unasked")
    if kind is None:
        raise ClassNotFound(
            f"{place} needs the class {architecture(config)}, which transformers does not have: upgrade it, or, in "
            "Python, load it with its own class and give the model instead of the folder"
        )
    return kind, {"trust_remote_code": True} if trust_remote_code and code is not None else {}


def code_beside(config: PretrainedConfig) -> str | None:
    """Name of the auto class that runs the code of the model's class, where the config says that there is some."""
    places = getattr(config, "auto_map", None) or {}
    return next((auto for auto, place in places.items() if place.rpartition(".")[2] == architecture(config)), None)
