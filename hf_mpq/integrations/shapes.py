"""Weights whose shape is not what the model's config says: feed-forward layers made wider, or narrower."""

import torch
from torch import nn
from transformers.initialization import no_init_weights

from ..nn import absolute_name, relative_name


def changed_shapes(model: nn.Module, names: list[str]) -> dict[str, list[int]]:
    """Relative name to `(out, in)` of the matrices `names` that differ from a model freshly built from the config."""
    with torch.device("meta"), no_init_weights():
        fresh = type(model)(model.config)
    found = {}
    for name in names:
        now = model.get_submodule(absolute_name(model, name)).weight.shape
        full = absolute_name(fresh, name)
        if full is not None and fresh.get_submodule(full).weight.shape != now:
            found[relative_name(model, name)] = list(now)
    return found


def apply_shapes(model: nn.Module, shapes: dict[str, list[int]]) -> None:
    """Give the linear layers of a skeleton the shapes that were saved."""
    for name, (rows, columns) in shapes.items():
        full = absolute_name(model, name)
        if full is not None:
            old = model.get_submodule(full)
            device, dtype = old.weight.device, old.weight.dtype
            model.set_submodule(full, nn.Linear(columns, rows, old.bias is not None, device=device, dtype=dtype))
