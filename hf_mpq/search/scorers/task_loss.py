"""The loss of a task whose curvature or gradient is asked for."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers.utils import ModelOutput

from ...nn.pooling import EMBEDDING
from .passes import Batch, real_tokens, without_padding

IGNORED = -100
"""Label of tokens that count for nothing, as everywhere in transformers."""


def task_loss(output: ModelOutput, batch: Batch) -> Tensor:
    """Sum of the loss over the examples, with the batch's labels, or with the model's own predictions without any.

    Cross-entropy of classes (of examples, of real tokens, of start and end positions); of several labels at once, that
    of each. Regression and a bare model's embeddings or hidden states (of real tokens) are means of unit Gaussians:
    half the squared difference; from their own prediction it has no gradient but still curvature (the Gauss-Newton
    matrix).
    """
    if "start_logits" in output:
        sides = ("start", "end")
        return sum(_position_loss(output[f"{side}_logits"], batch, f"{side}_positions") for side in sides)
    if EMBEDDING in output:
        return _half_square(output[EMBEDDING], output[EMBEDDING].detach())
    if "logits" not in output:
        hidden = real_tokens(output[0], batch.mask)
        return _half_square(hidden, hidden.detach())
    logits, labels = output["logits"], batch.target
    if logits.shape[-1] == 1:
        return _half_square(logits, logits.detach() if labels is None else labels.reshape(logits.shape))
    if labels is not None and labels.is_floating_point():
        return binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="sum")
    if logits.dim() == 3:
        logits = real_tokens(logits, batch.mask)
        labels = None if labels is None else real_tokens(labels, batch.mask)
    return _class_loss(logits, labels)


def _class_loss(logits: Tensor, labels: Tensor | None) -> Tensor:
    """`(n, classes)`"""
    labels = logits.argmax(-1) if labels is None else labels.reshape(-1)
    return cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")


def _position_loss(logits: Tensor, batch: Batch, name: str) -> Tensor:
    """Positions outside the window count for nothing."""
    logits, positions = without_padding(logits, batch.mask), batch.labels.get(name)
    if positions is not None:
        inside = (positions >= 0) & (positions < logits.shape[1])
        positions = torch.where(inside, positions, IGNORED)
    return _class_loss(logits, positions)


def _half_square(values: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (values.float() - target.float()).square().sum()
