"""Running batches through a model that is left as it was."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps

import torch
from torch import Tensor, nn

from ..core.inputs import is_label

_HIDDEN = -1000.0
"""What is added to the score of a token that nobody sees is below it: -10000, the lowest float or minus infinity."""


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Every module in eval mode, and afterwards in the mode that it was in."""
    before = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def outside_inference_mode(work: Callable) -> Callable:
    """The function, which differentiates, also where it is called inside `torch.inference_mode()`."""

    @wraps(work)
    def run(*args, **kwargs):
        if not torch.is_inference_mode_enabled():
            return work(*args, **kwargs)
        with torch.inference_mode(False):
            return work(*args, **kwargs)

    return run


def differentiable(model: nn.Module) -> nn.Module:
    """The model, or a copy of one that was made inside `torch.inference_mode()`, which cannot be differentiated."""
    return copy.deepcopy(model) if any(one.is_inference() for one in model.parameters()) else model


def forward_inputs(model: nn.Module, batch: Mapping) -> dict:
    """What forward is called with: a batch without its labels, where the model is."""
    device = next(model.parameters()).device
    return {key: value.to(device) for key, value in batch.items() if not is_label(key)}


def real_tokens(batch: Mapping) -> Tensor | None:
    """Which tokens of a batch are no padding, `(sequences, tokens)` bool; None when it does not say.

    Of a mask with 4 dimensions, `(batch, heads, queries, keys)`, those that some query sees; floats are added to
    scores, which hides what is far below 0. Choices, `(batch, choices, tokens)`, are sequences of their own.
    """
    mask = batch.get("attention_mask")
    if mask is None:
        return None
    if mask.dim() == 4:
        seen = mask > _HIDDEN if mask.is_floating_point() else mask.bool()
        return seen.flatten(1, 2).any(1)
    return mask.bool().flatten(0, -2)


def real_rows(x: Tensor, mask: Tensor | None) -> Tensor:
    """Features of real tokens, `(tokens, features)`; tensors of another shape (pooled, positions) are kept whole.

    Args:
        x: `(..., features)`.
        mask: `(batch, tokens)` bool; None keeps all.
    """
    rows = x.detach().flatten(0, -2)
    return rows[mask.flatten()] if mask is not None and x.shape[:-1] == mask.shape else rows
