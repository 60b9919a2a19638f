"""Classes whose models can be made from a config and nothing else, as most of transformers can."""

import inspect

from torch import nn

from . import body_of


def takes_config_alone(kind: type[nn.Module]) -> bool:
    """Whether `kind(config)` is a call that its `__init__` allows."""
    try:
        inspect.signature(kind).bind(None)
    except TypeError:
        return False
    return True


def class_from_config(model: nn.Module) -> type[nn.Module] | None:
    """What a model like this one can be made of: its class; or else the encoder's, without the head; None where both
    need more than the config."""
    kinds = (type(model), type(body_of(model)))
    return next((kind for kind in kinds if takes_config_alone(kind)), None)
