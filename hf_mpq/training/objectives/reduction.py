"""How the layers of a term are put together."""

import torch
from torch import Tensor

REDUCTIONS = ("sum", "mean")


def check_reduction(reduction: str) -> str:
    """The reduction; raises ValueError when it is unknown."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r} over layers; use one of {', '.join(map(repr, REDUCTIONS))}")
    return reduction


def reduce_layers(terms: list[Tensor] | Tensor, reduction: str) -> Tensor:
    """Sum or mean of one term per example and layer over the layers, then the mean over examples.

    Args:
        terms: `(batch,)` for each layer, or all in one, `(layers, batch)`.
        reduction: `"sum"` or `"mean"`.
    """
    stacked = terms if isinstance(terms, Tensor) else torch.stack(terms)  # (layers, batch)
    return (stacked.sum(0) if reduction == "sum" else stacked.mean(0)).mean()
