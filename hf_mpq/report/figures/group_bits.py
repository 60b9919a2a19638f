"""Bits of every output neuron of every matrix, block by block."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import nn

from ...core import SubgroupLayout
from ...nn import Family, absolute_name, family_of, relative_name
from ...nn.matrix import QuantizedMatrix
from ...nn.packed import PackedMatrix
from .blocks import Block, blocks_of
from .theme import FLOAT


@dataclass(frozen=True)
class BlockBits:
    """What one logical matrix has.

    Attributes:
        block: which it is.
        bits: of each output neuron, or input feature where columns are cut, `(lines,)`; 0 = pruned, 32 = float; nested
            codes at the precision that is used.
        line_length: weights of each.
        axis: 0 when rows are cut, 1 when columns are.
    """

    block: Block
    bits: np.ndarray
    line_length: int
    axis: int = 0


def block_bits(model: nn.Module) -> list[BlockBits]:
    """Every matrix that is quantized, and of a known family those in scope that stay float; in the model's order.

    Raises:
        ValueError: when nothing in the model is quantized.
    """
    family = family_of(model)
    modules = {relative_name(model, name): module for name, module in model.named_modules()}
    scope = _scope(model, family)
    found = [part for name, module in modules.items() for part in _parts(name, module, name in scope, family)]
    if all((part.bits == FLOAT).all() for part in found):
        raise ValueError(
            "nothing in this model is quantized by hf_mpq; call hf_mpq.quantize(model, MPQConfig(...)) first"
        )
    return found


def _scope(model: nn.Module, family: Family | None) -> set[str]:
    if family is None:
        return set()
    others = [name for name in (*family.embeddings, *family.projections) if absolute_name(model, name) is not None]
    return {*others, *family.encoder_names(model)}


def _parts(name: str, module: nn.Module, in_scope: bool, family: Family | None) -> Iterator[BlockBits]:
    """The blocks of one module; none where it is no matrix of interest."""
    if isinstance(module, QuantizedMatrix | PackedMatrix):
        packed = isinstance(module, PackedMatrix)
        layout = module.stored.layout if packed else module.spec.layout
        bits = layout.expand(module.group_bits() if packed else module.program.gate.derive()).cpu().numpy()
        bits = np.full_like(bits, module.used_precision) if module.nested else bits
    elif in_scope and isinstance(module, nn.Linear | nn.Embedding):
        shards = family.shards(name) if isinstance(module, nn.Linear) else 1
        layout = SubgroupLayout(tuple(module.weight.shape), shards=shards)
        bits = np.full(layout.shape[0], FLOAT)
    else:
        return
    for block, part in zip(blocks_of(name, layout.shards, family), np.split(bits, layout.shards)):
        yield BlockBits(block, part, layout.line_length, layout.axis)
