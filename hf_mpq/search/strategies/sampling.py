"""One discrete choice drawn from the gates."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ...core import PrecisionSpace, Usage


@torch.no_grad()
def drawn(space: PrecisionSpace, usages: Mapping[str, Usage], seed: int) -> dict[str, Usage]:
    """Usages of one precision per sub-group, drawn with the gates' probabilities; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _drawn(space.weights[name].candidates, usage, generator) for name, usage in usages.items()}


def _drawn(candidates: tuple[int, ...], usage: Usage, generator: torch.Generator) -> Usage:
    if usage.probabilities is None or len(candidates) == 1:
        return usage
    index = torch.multinomial(usage.probabilities.float().cpu(), 1, generator=generator)
    return certain(candidates, index.squeeze(1).to(usage.bits.device), usage)


def certain(candidates: tuple[int, ...], index: Tensor, like: Usage) -> Usage:
    """The usage of sub-groups that are at the candidate of their `index` `(groups,)`."""
    chosen = torch.nn.functional.one_hot(index, len(candidates)).to(like.bits.dtype)
    bits = torch.tensor(candidates, dtype=chosen.dtype, device=chosen.device)
    return replace(like, bits=chosen @ bits, keep=chosen[:, bits > 0].sum(1), probabilities=chosen)
