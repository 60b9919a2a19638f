"""Configurations that do not mention hf_mpq."""

import copy
from pathlib import Path

from torch import nn

from ..plugin.saving import detach

_QUANTIZED = ("quantization_config", "_is_quantized", "_pre_quantization_dtype")


def save_plain_config(model: nn.Module, folder: Path) -> None:
    """Write `config.json` of the float model that a packed one stands for."""
    config = copy.deepcopy(model.config)
    for name in _QUANTIZED:
        config.__dict__.pop(name, None)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)


def forget_quantization(model: nn.Module) -> None:
    """Make a model whose layers are plain an ordinary one for `save_pretrained`, in place."""
    for name in _QUANTIZED:
        model.config.__dict__.pop(name, None)
    detach(model)
