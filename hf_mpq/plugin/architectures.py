"""The class that a config names: one of transformers, or one whose code lies beside the config."""

import transformers
from transformers import PretrainedConfig


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


def code_beside(config: PretrainedConfig) -> str | None:
    """Name of the auto class that runs the code of the model's class, where the config says that there is some."""
    places = getattr(config, "auto_map", None) or {}
    return next((auto for auto, place in places.items() if place.rpartition(".")[2] == architecture(config)), None)
