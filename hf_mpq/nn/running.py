"""Running batches through a model that is left as it was."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

POSITIONS = ("start_positions", "end_positions")
"""Labels of spans."""


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


def forward_inputs(model: nn.Module, batch: Mapping) -> dict:
    """What forward is called with: a batch without its labels, where the model is."""
    device = next(model.parameters()).device
    return {key: value.to(device) for key, value in batch.items() if "label" not in key and key not in POSITIONS}


def real_tokens(batch: Mapping) -> Tensor | None:
    """Which tokens of a batch are no padding, `(batch, tokens)` bool; None when it does not say."""
    mask = batch.get("attention_mask")
    return mask.bool() if mask is not None and mask.dim() == 2 else None


def real_rows(x: Tensor, mask: Tensor | None) -> Tensor:
    """Features of real tokens, `(tokens, features)`; tensors of another shape (pooled, positions) are kept whole.

    Args:
        x: `(..., features)`.
        mask: `(batch, tokens)` bool; None keeps all.
    """
    rows = x.detach().flatten(0, -2)
    return rows[mask.flatten()] if mask is not None and x.shape[:-1] == mask.shape else rows
