"""Wider models out of narrower ones: more feed-forward rows, and still the same function."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..core import Registry
from .importance import put_in_order
from .reshape import AxesView, Sizes, config_of_sizes, made_like, sizes_of
from .walk import matrices

RESHAPES: Registry[Callable[..., nn.Module]] = Registry("reshape", home="hf_mpq.nn.widening")
"""What a stage may do to the shape of its model before it starts: a function of a trainable model, which is left as it
is, and of options, that gives a float one of the new shape. It draws nothing: a resumed stage has the same."""


@RESHAPES.register("widen")
def widened(model: nn.Module, rows: float = 1.5) -> nn.Module:
    """A stand-alone float model with more feed-forward rows, the same in all layers, and the same function.

    Rows are put in the order of their weights first, the largest in front. New ones are copies of those, two of each:
    what reads them adds up the one and takes the other away again, so that they change nothing, also where both are
    rounded by one symmetric grid, or are passed on in equal parts. Training moves them apart from the first step on. A
    last one without a partner is read by zeros.

    The paper does not say how channels are added; Net2Wider (Chen et al., ICLR 2016) halves what reads a copy instead,
    which holds only where all copies are passed on, and on no grid without a level at half of each of its own.

    Args:
        model: float, or trainable with float masters, which are what is taken; of a known family.
        rows: how many times as many, at least 1; rounded to whole rows.

    Raises:
        ValueError: for less, a model of a family that is not known, or whose class needs more than a config.
    """
    if not rows >= 1:
        raise ValueError(f"rows are multiplied by at least 1, got {rows}; shape='rows:...' makes a model narrower")
    sizes = sizes_of(model)
    wide = made_like(model, config_of_sizes(model, replace(sizes, rows=round(sizes.rows * rows))))
    narrow = put_in_order(_copied(model, made_like(model, config_of_sizes(model, sizes))), rows=True)
    own, view = narrow.state_dict(keep_vars=True), AxesView(narrow)
    with torch.no_grad():
        for name, tensor in wide.state_dict(keep_vars=True).items():
            tensor.data = _grown(own[name].data, tensor.shape, name, view, sizes).clone()
            tensor.requires_grad_(own[name].requires_grad)
    return wide.train(model.training).to(next(model.parameters()).device)


def _copied(model: nn.Module, empty: nn.Module) -> nn.Module:
    own = model.state_dict(keep_vars=True)
    for name, tensor in empty.state_dict(keep_vars=True).items():
        tensor.data = own[name].data.clone()
        tensor.requires_grad_(own[name].requires_grad)
    return empty


def _grown(tensor: Tensor, shape: torch.Size, name: str, view: AxesView, sizes: Sizes) -> Tensor:
    """The tensor of a wider model: rows of each shard copied, or columns of which the copies cancel out."""
    for axis, (size, wider) in enumerate(zip(tensor.shape, shape)):
        if size == wider:
            continue
        shards, rows = view.factors(name, axis, size, sizes)
        more = wider // shards - rows
        source = torch.arange(more, device=tensor.device).div(2, rounding_mode="floor") % rows
        parts = tensor.unflatten(axis, (shards, rows))
        new = parts.index_select(axis + 1, source)
        if axis == 1:
            sign = 1.0 - 2.0 * (torch.arange(more, device=tensor.device) % 2)
            if more % 2:
                sign[-1] = 0
            new = new * sign
        tensor = torch.cat([parts, new], dim=axis + 1).flatten(axis, axis + 1)
    return tensor


@torch.no_grad()
def close_new_rows(model: nn.Module, rows: int) -> nn.Module:
    """Leave those widths of a widened model for now that keep its first `rows` feed-forward rows at most, or the next
    wider one, in place; for gates that choose widths. The scales of what reads them are set for these."""
    wide = [layer for _, layer in matrices(model) if layer.program.gate.sets_width]
    for layer in wide:
        layout = layer.spec.layout
        ends = torch.tensor(layout.sizes[: layout.count // layout.shards]).cumsum(0)
        layer.program.gate.close_above(int((ends < rows).sum()) + 1)
    if wide:
        for _, layer in matrices(model):
            layer.calibrate()
    return model
