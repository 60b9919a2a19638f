"""The discrete choice that gates would give."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...core import PrecisionSpace, Usage, WeightSpec, constant


@torch.no_grad()
def decided(space: PrecisionSpace, usages: Mapping[str, Usage]) -> dict[str, Usage]:
    """Usages of the likeliest precision of each sub-group and of the likeliest bits of each input."""
    alike: dict[tuple, list[str]] = {}
    for name, one in usages.items():
        if one.probabilities is not None and len(space.weights[name].candidates) > 1:
            alike.setdefault((space.weights[name].candidates, one.probabilities.dtype), []).append(name)
    sure = {}
    for (candidates, _), names in alike.items():
        sure.update(zip(names, _decided(candidates, [usages[name] for name in names])))
    sure.update({name: _as_derived(space.weights[name], one) for name, one in usages.items() if name not in sure})
    return {name: _with_input(space.weights[name], one) for name, one in sure.items()}


def _decided(candidates: tuple[int, ...], usages: Sequence[Usage]) -> list[Usage]:
    """Of matrices with the same candidates, in the calls of one."""
    sizes = [len(one.bits) for one in usages]
    every = certain(candidates, torch.cat([one.probabilities for one in usages]).argmax(1), usages[0])
    parts = zip(usages, every.bits.split(sizes), every.keep.split(sizes), every.probabilities.split(sizes))
    return [replace(one, bits=bits, keep=keep, probabilities=chances) for one, bits, keep, chances in parts]


def _as_derived(spec: WeightSpec, usage: Usage) -> Usage:
    """Of a gate that has no probabilities."""
    if usage.probabilities is not None or usage.likeliest is None:
        return usage
    candidates = constant(spec.candidates, torch.int64, usage.likeliest.device)
    return certain(spec.candidates, torch.searchsorted(candidates, usage.likeliest), usage)


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
