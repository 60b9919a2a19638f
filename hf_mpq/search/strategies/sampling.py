"""The discrete choice that gates would give."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ...core import PrecisionSpace, Usage, WeightSpec, constant


@torch.no_grad()
def decided(space: PrecisionSpace, usages: Mapping[str, Usage]) -> dict[str, Usage]:
    """Usages of the likeliest precision of each sub-group and of the likeliest bits of each input."""
    return {name: _with_input(space.weights[name], _decided(space.weights[name], one)) for name, one in usages.items()}


def _decided(spec: WeightSpec, usage: Usage) -> Usage:
    if usage.probabilities is None or len(spec.candidates) == 1:
        return usage
    return certain(spec.candidates, usage.probabilities.argmax(1), usage)


def _with_input(spec: WeightSpec, usage: Usage) -> Usage:
    chances, inputs = usage.activation_probabilities, spec.activation
    if chances is None or inputs is None:
        return usage
    chosen = inputs.following(usage.bits.tolist()) if inputs.follows else inputs.candidates[int(chances.argmax())]
    found = torch.zeros_like(chances)
    found[inputs.candidates.index(chosen)] = 1
    return replace(usage, activation_bits=float(chosen), activation_probabilities=found)


def certain(candidates: tuple[int, ...], index: Tensor, like: Usage) -> Usage:
    """The usage of sub-groups that are at the candidate of their `index` `(groups,)`."""
    chosen = torch.nn.functional.one_hot(index, len(candidates)).to(like.bits.dtype)
    bits = chosen @ constant(candidates, chosen.dtype, chosen.device)
    return replace(like, bits=bits, keep=chosen[:, candidates.count(0) :].sum(1), probabilities=chosen)
