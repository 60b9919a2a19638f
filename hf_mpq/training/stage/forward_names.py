"""What a model's forward is given of a batch that is for several models."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def forward_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of a model's forward."""
    return tuple(inspect.signature(model.forward).parameters)


@torch.compiler.disable
def named_inputs(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a batch that forward names; all of it where forward names none, as a compiled model's."""
    names = forward_names(model)
    return {key: value for key, value in batch.items() if key in names} or dict(batch)


class NamedInputs(nn.Module):
    """A model that is given of each batch what its forward names."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    @property
    def config(self) -> Any:
        """The model's own."""
        return self.model.config

    def forward(self, **batch: Tensor) -> Any:
        """The model's outputs."""
        return self.model(**named_inputs(self.model, batch))
