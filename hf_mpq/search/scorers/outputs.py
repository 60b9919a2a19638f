"""How far the outputs of two models are apart, for every head."""

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import logsigmoid

from ...nn.heads import CLASSES, VALUES, Decisions


def output_divergence(before: Mapping[str, Decisions], after: Mapping[str, Decisions]) -> Tensor:
    """Divergence of each example `(batch,)`, in float64: of classes; of several labels, summed over the labels; half
    the squared difference of values (unit Gaussians), which of embeddings of unit length is their cosine distance.
    Summed over start and end positions, and over real tokens."""
    return sum(_divergence(before[name], after[name]) for name in before)


def _divergence(before: Decisions, after: Decisions) -> Tensor:
    first, second = before.scores.double(), after.scores.double()
    if before.kind == VALUES:
        values = 0.5 * (first - second).square().sum(-1)
    else:
        values = (_of_classes if before.kind == CLASSES else _of_labels)(first, second)
    return before.of_examples(values)


def _of_classes(before: Tensor, after: Tensor) -> Tensor:
    """Over the last dimension; never below 0."""
    p, q = before.log_softmax(-1), after.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)


def _of_labels(before: Tensor, after: Tensor) -> Tensor:
    """Summed over the last dimension, each a yes or no; never below 0."""
    total = 0.0
    for sign in (1, -1):  # it holds, it does not
        p, q = logsigmoid(sign * before), logsigmoid(sign * after)
        total = total + p.exp() * (p - q)
    return total.clamp(min=0).sum(-1)
