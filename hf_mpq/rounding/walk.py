"""Encoder blocks in order, each with the inputs it gets once the blocks before it are done."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from ..core import track
from ..nn import BlockRecord, are_chained, encoder_blocks, record_blocks
from ..nn.bfloat16 import own_products
from ..nn.held import held_weights
from ..weights.compilation import run_as_written


@dataclass
class BlockStep:
    """One block, to be changed before the walk goes on.

    Attributes:
        name: relative.
        block: of the quantized model.
        calls: what it is called with behind the quantized blocks before it, as they are by now.
        twin: the float block; None without a reference.
        wanted: what the float block is called with in the float model, and gives; call for call as `calls`.
    """

    name: str
    block: nn.Module
    calls: BlockRecord
    twin: nn.Module | None = None
    wanted: BlockRecord | None = None


def walk_blocks(
    model: nn.Module, reference: nn.Module | None, batches: Sequence[Mapping], description: str, progress: bool = False
) -> Iterator[BlockStep]:
    """Every block of `model`, in order; both models are to be in eval mode.

    Chained blocks are run one by one, so that the hidden states of one block at a time are kept. Where blocks are
    called several times (ALBERT), or something stands between them, each block's inputs are recorded in a pass of the
    whole model as it is by then.
    """
    blocks = encoder_blocks(model)
    with run_as_written():
        chained = are_chained(list(record_blocks(model, batches[:1]).values()), 1)
    records = _chain if chained else _one_by_one
    own = records(model, batches, outputs=False)
    floats = [None] * len(blocks) if reference is None else records(reference, batches, outputs=True)
    twins = [None] * len(blocks) if reference is None else encoder_blocks(reference).values()
    pairs = track(zip(blocks.items(), own, twins, floats), description, total=len(blocks), disable=not progress)
    for (name, block), calls, twin, wanted in pairs:
        yield BlockStep(name, block, calls, twin, wanted)


def _chain(model: nn.Module, batches: Sequence[Mapping], outputs: bool) -> Iterator[BlockRecord]:
    """Outputs are computed before a block is handed out if wanted, else after it was changed."""
    blocks = encoder_blocks(model)
    first = next(iter(blocks.values()), None)
    with _products(model, outputs), run_as_written(), nullcontext() if first is None else held_weights(first):
        records = record_blocks(model, batches, first_only=True)
    hidden = next(iter(records.values())).hidden if records else []
    for name, block in blocks.items():
        record = records.pop(name)
        record.hidden = hidden
        if outputs:
            with _products(model, outputs):
                record.outputs = _run(record, block)
        yield record
        hidden = record.outputs if outputs else _run(record, block)


def _one_by_one(model: nn.Module, batches: Sequence[Mapping], outputs: bool) -> Iterator[BlockRecord]:
    for name in encoder_blocks(model):
        with _products(model, outputs):
            found = record_blocks(model, batches, names=[name])[name]
        yield found


def _products(model: nn.Module, wanted: bool) -> AbstractContextManager:
    """What is wanted of a model is as it gives it, whatever type others' products are in."""
    return own_products(model) if wanted else nullcontext()


@torch.no_grad()
def _run(record: BlockRecord, block: nn.Module) -> list[torch.Tensor]:
    with held_weights(block):
        return [record.run(block, call) for call in range(len(record))]
