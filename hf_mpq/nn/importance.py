"""Which rows, heads and hidden dimensions of a float model come first: those of largest weights, so that a cut keeps
them. Putting them in order changes no output but for the order of sums."""

import torch
from torch import Tensor, nn

from ..core import Link
from .families import family_of
from .naming import absolute_name
from .reshape import hidden_axes, sizes_of


@torch.no_grad()
def put_in_order(model: nn.Module, rows: bool = False, heads: bool = False, hidden: bool = False) -> nn.Module:
    """Sort what is named by the size of its weights, largest first, in place; returns the model.

    A feed-forward row is worth the norm of its weights times that of the column that reads it; a head likewise, with
    its value rows and the columns of the output projection; a hidden dimension the norm of all parameters along it.
    Heads of families that cannot do without one stay where they are.

    Args:
        model: float, of a known family.
        rows, heads, hidden: what to sort.
    """
    family, size = family_of(model), sizes_of(model).head_size
    heads = heads and family.removable_heads
    links = family.links(model) if rows or heads else []
    for link in links:
        if rows and link.kind in ("pointwise", "gated"):
            _move(model, link, _order(_worth(model, link), 1))
        if heads and link.kind == "value":
            order = _order(_worth(model, link), size)
            _move(model, link, order)
            _move_scores(model, link, order)
    if hidden:
        _sort_hidden(model)
    return model


def _weight(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(absolute_name(model, name))


def _worth(model: nn.Module, link: Link) -> Tensor:
    """Of each row that a link's consumer reads, `(rows,)`."""
    made = sum(
        _weight(model, block.name).weight[block.start : block.start + block.count].float().square().sum(1)
        for block in link.blocks
    )
    return made.sqrt() * _weight(model, link.consumer).weight.float().norm(dim=0)


def _order(worth: Tensor, size: int) -> Tensor:
    """Positions of entries, in runs of `size` that stay together, by the norm of their worth, the highest first."""
    runs = worth.view(-1, size)
    first = torch.argsort(runs.norm(dim=1), descending=True, stable=True)
    return (first.unsqueeze(1) * size + torch.arange(size, device=worth.device)).flatten()


def _move(model: nn.Module, link: Link, order: Tensor) -> None:
    for block in link.blocks:
        _move_rows(_weight(model, block.name), block.start, order)
    consumer = _weight(model, link.consumer).weight
    consumer.copy_(consumer[:, order.to(consumer.device)].clone())


def _move_rows(layer: nn.Module, start: int, order: Tensor) -> None:
    for tensor in (layer.weight, layer.bias):
        if tensor is not None:
            tensor[start : start + len(order)] = tensor[start : start + len(order)][order].clone()


def _move_scores(model: nn.Module, value: Link, order: Tensor) -> None:
    """Queries, keys and projected positions of heads whose values moved."""
    names, prefix = family_of(model).names, _prefix(value, family_of(model).names.value)
    starts = {names.query: 0, names.key: len(order) if names.fused else 0}
    moved = [(names.query, 0), (names.key, starts[names.key]), *((extra, 0) for extra in names.extra)]
    for name, start in moved:
        if absolute_name(model, f"{prefix}.{name}") is not None:
            _move_rows(_weight(model, f"{prefix}.{name}"), start, order)


def _prefix(link: Link, name: str) -> str:
    return link.blocks[0].name.removesuffix(f".{name}")


def _sort_hidden(model: nn.Module) -> None:
    axes = {name: found for name, found in hidden_axes(model).items() if found}
    parameters = dict(model.named_parameters())
    worth = sum(_along(parameters[name], axis) for name, found in axes.items() for axis in found)
    order = _order(worth.sqrt(), 1)
    for name, found in axes.items():
        for axis in found:
            parameters[name].copy_(parameters[name].index_select(axis, order.to(parameters[name].device)))


def _along(parameter: Tensor, axis: int) -> Tensor:
    """Sum of squares of everything at each position of an axis."""
    return parameter.float().square().movedim(axis, 0).flatten(1).sum(1) if parameter.dim() > 1 else parameter.square()
