"""The discrete choice that gates would give."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ...core import PrecisionSpace, Usage, constant


@torch.no_grad()
def decided(space: PrecisionSpace, usages: Mapping[str, Usage]) -> dict[str, Usage]:
    """Usages of the likeliest precision of each sub-group."""
    return {name: _decided(space.weights[name].candidates, usage) for name, usage in usages.items()}


def _decided(candidates: tuple[int, ...], usage: Usage) -> Usage:
    if usage.probabilities is None or len(candidates) == 1:
        return usage
    return certain(candidates, usage.probabilities.argmax(1), usage)


def certain(candidates: tuple[int, ...], index: Tensor, like: Usage) -> Usage:
    """The usage of sub-groups that are at the candidate of their `index` `(groups,)`."""
    chosen = torch.nn.functional.one_hot(index, len(candidates)).to(like.bits.dtype)
    bits = chosen @ constant(candidates, chosen.dtype, chosen.device)
    return replace(like, bits=bits, keep=chosen[:, candidates.count(0) :].sum(1), probabilities=chosen)
