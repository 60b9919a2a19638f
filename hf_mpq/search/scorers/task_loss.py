"""The loss of a task whose curvature or gradient is asked for."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from ...nn.heads import LABELS, SPANS, VALUES, Decisions
from .passes import Batch

IGNORED = -100
"""Label of tokens that count for nothing, as everywhere in transformers."""


def task_loss(outputs: Mapping[str, Decisions], batch: Batch) -> Tensor:
    """Sum of the loss over the examples, with the batch's labels, or with the model's own predictions without any.

    Cross-entropy of classes (of examples, of real tokens, of start and end positions); of several labels at once, that
    of each. Regression and a bare model's embeddings or hidden states (of real tokens) are means of unit Gaussians:
    half the squared difference; from their own prediction it has no gradient but still curvature (the Gauss-Newton
    matrix).
    """
    return sum(_loss(decisions, _target(name, decisions, batch)) for name, decisions in outputs.items())


def _target(name: str, decisions: Decisions, batch: Batch) -> Tensor | None:
    """Labels of an output, one for each decision; None where the batch has none."""
    if name in SPANS:
        return _inside(batch.labels.get(name.replace("logits", "positions")), decisions.scores.shape[1])
    labels = batch.target if name == "logits" else None
    if labels is None or decisions.scores.dim() == 2:
        return labels
    return labels.flatten() if decisions.mask is None else labels[decisions.mask]


def _inside(positions: Tensor | None, tokens: int) -> Tensor | None:
    """Positions outside the window count for nothing."""
    if positions is None:
        return None
    return torch.where((positions >= 0) & (positions < tokens), positions, IGNORED)


def _loss(decisions: Decisions, target: Tensor | None) -> Tensor:
    rows = decisions.rows.float()
    if decisions.kind == VALUES:
        target = rows.detach() if target is None else target.reshape(rows.shape).float()
        return 0.5 * (rows - target).square().sum()
    if decisions.kind == LABELS or (target is not None and target.is_floating_point()):
        target = rows.detach() > 0 if target is None else target
        return binary_cross_entropy_with_logits(rows, target.float(), reduction="sum")
    target = rows.argmax(-1) if target is None else target.reshape(-1)
    return cross_entropy(rows, target, ignore_index=IGNORED, reduction="sum")
