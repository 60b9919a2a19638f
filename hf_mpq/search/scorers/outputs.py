"""How far the outputs of two models are apart, for every head."""

from collections.abc import Mapping

from torch import Tensor

from ...nn.pooling import EMBEDDING
from .passes import without_padding

_KEPT = ("start_logits", "end_logits", "logits", EMBEDDING)

Outputs = Mapping[str, Tensor]


def kept_outputs(output: Outputs) -> dict[str, Tensor]:
    """The logits of a model with a head; of one without the embeddings where it pools, else the hidden states."""
    kept = {name: output[name].detach() for name in _KEPT if name in output}
    return kept or {"hidden": output[0].detach()}


def output_divergence(before: Outputs, after: Outputs, mask: Tensor | None) -> Tensor:
    """Divergence of each example `(batch,)`, in float64: of classes; summed over start and end positions, or over real
    tokens; half the squared difference of a regression output and of a bare model's hidden states (unit Gaussians), and
    of embeddings of unit length, where it is their cosine distance."""
    if "start_logits" in before:
        sides = ((without_padding(side[name], mask) for side in (before, after)) for name in _KEPT[:2])
        return sum(_class_divergence(*pair) for pair in sides)
    (name,) = before
    first, second = before[name], after[name]
    if name in ("hidden", EMBEDDING) or first.shape[-1] == 1:
        values = 0.5 * (first.double() - second.double()).square().sum(-1)
    else:
        values = _class_divergence(first, second)
    return values if values.dim() == 1 else (values if mask is None else values * mask).sum(1)


def _class_divergence(before: Tensor, after: Tensor) -> Tensor:
    """Over the last dimension; never below 0."""
    p, q = (logits.double().log_softmax(-1) for logits in (before, after))
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)
