"""Means and distributions that padding has no part in; each example counts alike, whatever its length."""

import torch
from torch import Tensor


def mean_of_tokens(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the real tokens of each example, `(batch, ...)`; zero for an example that has none.

    Args:
        values: `(batch, tokens, ...)`.
        mask: real tokens, `(batch, tokens)` bool; None when all are.
    """
    if mask is None:
        return values.mean(1)
    real = mask.view(*mask.shape, *[1] * (values.dim() - 2))
    return values.masked_fill(~real, 0).sum(1) / real.sum(1).clamp(min=1)


def kl_divergence(teacher: Tensor, student: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) over the last axis, `(...)`.

    Args:
        teacher, student: unnormalised scores, `(..., classes)`.
        mask: classes that take part, of a shape that broadcasts; None when all do.
    """
    expected, found = (_log_softmax(scores, mask) for scores in (teacher, student))
    return (expected.exp() * (expected - found)).sum(-1)


def _log_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Log-probabilities; zero where the mask is False, so that differences vanish there."""
    if mask is None:
        return scores.log_softmax(-1)
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).log_softmax(-1).masked_fill(~mask, 0)
