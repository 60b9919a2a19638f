"""How far a block is from its float twin on the examples, and small batches of them to train it on."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..core.inputs import is_label
from ..nn import BlockRecord
from .walk import BlockStep

FEWEST, TOKENS = 4, 256
"""Sequences and tokens of a small batch: with more tokens products take most of the time, with fewer weights do."""


def split_batches(batches: Sequence[Mapping], size: int | None, generator: torch.Generator) -> list[dict]:
    """Batches of at most `size` sequences, drawn from within each of the given ones, whose padding they keep; None:
    of `part_size`."""
    parts = []
    for batch in batches:
        tensors = {key: value for key, value in batch.items() if not is_label(key)}
        for chosen in torch.randperm(sequences_of(tensors), generator=generator).split(size or part_size(tensors)):
            parts.append({key: value[chosen.to(value.device)] for key, value in tensors.items()})
    return parts


def part_size(batch: Mapping) -> int:
    """Sequences in each part of a batch: as many as have `TOKENS`, padding included, at least `FEWEST`."""
    ids = _first(batch)
    most = max(FEWEST, TOKENS * len(ids) // max(ids.numel(), 1))
    parts = max(-(-len(ids) // most), 1)
    return max(-(-len(ids) // parts), 1)  # about as many in each


def sequences_of(batch: Mapping) -> int:
    """How many there are in a batch."""
    return len(_first(batch))


def _first(batch: Mapping) -> Tensor:
    return next(value for key, value in batch.items() if not is_label(key))


def draw_calls(record: BlockRecord, size: int, generator: torch.Generator) -> list[int]:
    """Random different calls that have `size` sequences together, or all of them."""
    drawn, sequences = [], 0
    for call in torch.randperm(len(record), generator=generator).tolist():
        drawn.append(call)
        sequences += len(record.hidden[call])
        if sequences >= size:
            break
    return drawn


def block_error(step: BlockStep, calls: Sequence[int], inputs: Sequence[Tensor]) -> Tensor:
    """Mean squared error of the block's output over the real tokens of some calls; differentiable.

    Args:
        inputs: hidden states of every call.
    """
    total, tokens = 0.0, 0
    for call in calls:
        wanted, mask = step.wanted.outputs[call], step.calls.masks[call]
        output = step.calls.run(step.block, call, inputs[call])
        error = (output.float() - wanted.float()).square().mean(dim=-1)
        if mask is not None and mask.shape == error.shape:
            error = error[mask]
        total, tokens = total + error.sum(), tokens + error.numel()
    return total / max(tokens, 1)
