"""Weights whose shape is not what the model's config says: feed-forward layers made wider, or narrower."""

import torch
from torch import nn
from transformers.initialization import no_init_weights

from . import absolute_name, absolute_names
from .construction import class_from_config


def changed_shapes(model: nn.Module, names: list[str]) -> dict[str, list[int]]:
    """Relative name to `(out, in)` of the matrices `names` that differ from a model freshly built from the config; of
    all, where the model's class needs more than a config."""
    shapes = {name: list(model.get_submodule(absolute_name(model, name)).weight.shape) for name in names}
    kind = class_from_config(model)
    if kind is None:
        return shapes
    with torch.device("meta"), no_init_weights():
        fresh = kind(model.config)
    usual = {name: _usual(fresh, name) for name in names}
    return {name: shape for name, shape in shapes.items() if usual[name] not in (None, shape)}


def _usual(fresh: nn.Module, name: str) -> list[int] | None:
    full = absolute_name(fresh, name)
    return None if full is None else list(fresh.get_submodule(full).weight.shape)


def apply_shapes(model: nn.Module, shapes: dict[str, list[int]]) -> None:
    """Give the linear layers of a skeleton the shapes that were saved."""
    absolute = absolute_names(model)
    for name, (rows, columns) in shapes.items():
        full = absolute(name)
        if full is not None:
            old = model.get_submodule(full)
            device, dtype = old.weight.device, old.weight.dtype
            model.set_submodule(full, nn.Linear(columns, rows, old.bias is not None, device=device, dtype=dtype))
