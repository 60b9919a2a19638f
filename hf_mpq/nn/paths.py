"""Paths through the gates that are still open: one candidate for each sub-group, and for each open input."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..core import input_of
from ..weights import Gate
from .walk import gates, matrices


def highest_path(model: nn.Module) -> dict[str, Tensor]:
    """The highest precisions that open gates allow, by the name of each in `hf_mpq.nn.walk.gates`: `(groups,)`
    positions in its candidates."""
    return {name: gate.highest_path() for name, _, gate in _open(model)}


def drawn_path(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """A path drawn evenly from what open gates allow, as `highest_path`; tied matrices take the same.

    Args:
        generator: on the CPU; equal ones draw equally, whatever device the model is on.
    """
    drawn: dict[str, Tensor] = {}
    ties: dict[tuple[str, ...], Tensor] = {}
    for name, tie, gate in _open(model):
        if tie not in ties:
            ties[tie] = gate.random_path(generator)
        drawn[name] = ties[tie]
    return drawn


def _open(model: nn.Module) -> Iterator[tuple[str, tuple[str, ...], Gate]]:
    """Name, tie and gate of everything open; inputs that follow their matrix are no choice. What is not tied is tied to
    itself."""
    found = gates(model)
    for owner, layer in matrices(model):
        own = layer.spec.activation is not None and not layer.spec.activation.follows
        for kind, name in (("matrix", owner), *([("input", input_of(owner))] if own else [])):
            if name in found and found[name].searching:
                tie = (kind, name) if layer.spec.tie is None else (kind, "tie", layer.spec.tie)
                yield name, tie, found[name]
