"""Packed models as pruning would leave them, without choosing what goes: to measure what it saves."""

import copy

import torch
from torch import nn

from ..core import Link, applies, scores_of
from ..nn import PackedLinear, family_of, relative_modules
from .compaction import Kept, drop_heads, drop_rows, replace_layers, tell_attention


def shrunk(model: nn.Module, rows: int | None = None, heads: int | None = None) -> nn.Module:
    """A copy with only the first `rows` feed-forward rows and the first `heads` heads of every layer: as fast as a
    compacted model of that shape, and its outputs mean nothing.

    Args:
        model: packed, of a known family.
        rows, heads: None leaves them all; heads of families that cannot do without one stay.
    """
    small = copy.deepcopy(model)
    family = family_of(small)
    layers, links = layers_and_links(small)
    keep = {name: Kept(layer) for name, layer in layers.items()}
    gone = {}
    for link in links:
        if rows is not None and link.kind in ("pointwise", "gated"):
            drop_rows(link, torch.arange(link.blocks[0].count) < rows, keep)
        scores = scores_of(link, links) if link.kind == "value" else None
        if heads is not None and scores is not None and family.removable_heads:
            gone[link.blocks[0]] = scores, torch.arange(link.heads) >= heads
            drop_heads(link, gone, keep)
    replace_layers(small, layers, keep)
    tell_attention(small, family, gone)
    return small


def layers_and_links(model: nn.Module) -> tuple[dict[str, PackedLinear], list[Link]]:
    """Packed linear layers by relative name, and the links between them that fold anything."""
    layers = dict(relative_modules(model, PackedLinear))
    layouts = {name: layer.stored.layout for name, layer in layers.items()}
    return layers, [link for link in family_of(model).links(model) if applies(link, layouts)]


def dense_shape(model: nn.Module) -> tuple[int, int]:
    """The most feed-forward rows, and the most heads that can be taken out, of any layer; 0 where there are none."""
    _, links = layers_and_links(model)
    rows = [link.blocks[0].count for link in links if link.kind in ("pointwise", "gated")]
    removable = family_of(model).removable_heads
    heads = [link.heads for link in links if link.kind == "value" and removable and scores_of(link, links)]
    return max(rows, default=0), max(heads, default=0)
