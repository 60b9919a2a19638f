"""Folding pruned rows away: their constant output goes into the consumer's bias, and they stop to exist."""

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from ..core import Link, Liveness, RowBlock, applies, kept_rows
from ..core.liveness import liveness
from .families import family_of
from .matrix import QuantizedMatrix
from .naming import relative_modules


@torch.no_grad()
def fold(model: nn.Module) -> None:
    """Fold every removable pruned row, in place; the float function with those rows at zero is unchanged.

    A pruned row gives its bias whatever the input. What the consumer makes of that constant is added to its bias
    through its float weight; the row's bias becomes zero, and the consumer's columns that read it are held at zero.
    Models of unknown families are left as they are.

    Raises:
        ValueError: when a constant is not zero and the consumer has no bias to take it, or when a row that was folded
            away before is kept now.
    """
    family = family_of(model)
    if family is None:
        return
    layers = dict(relative_modules(model, QuantizedMatrix))
    layers = {name: layer for name, layer in layers.items() if layer.spec.kind == "linear"}
    layouts = {name: layer.spec.layout for name, layer in layers.items()}
    links = [link for link in family.links(model) if applies(link, layouts)]
    bits = {name: layer.program.gate.derive().tolist() for name, layer in layers.items()}
    alive = liveness(links, layouts, bits)
    _refuse_revival(layers, alive)
    reading = [link for link in links if link.consumer is not None]
    moves = [(layers[link.consumer], _moved_constant(link, layers, ~alive[link.consumer].columns)) for link in reading]
    for consumer, moved in moves:
        if consumer.bias is not None:
            consumer.bias += moved.to(consumer.bias.dtype)
    for name, layer in layers.items():
        _drop(layer, alive[name].rows.to(layer.weight.device), alive[name].columns.to(layer.weight.device))


def _refuse_revival(layers: dict[str, QuantizedMatrix], alive: dict[str, Liveness]) -> None:
    for name, layer in layers.items():
        revived = (alive[name].columns.to(layer.weight.device) & ~layer.program.live_columns).any()
        if layer.bias is not None:
            revived |= (alive[name].rows.to(layer.weight.device) & ~layer.live_rows).any()
        if revived:
            raise ValueError(
                f"{name}: the assignment keeps rows that were folded away before; start again from the float model, or "
                "leave them pruned"
            )


def _moved_constant(link: Link, layers: dict[str, QuantizedMatrix], dead: Tensor) -> Tensor:
    """What the rows behind the `dead` `(in,)` columns of the consumer add to its bias, `(out,)`."""
    consumer = layers[link.consumer]
    outputs = [_constant_rows(layers[block.name], block) for block in link.blocks]
    if link.activation is not None:
        outputs[0] = ACT2FN[link.activation](outputs[0])
    constant = consumer.normalised(outputs[0] * outputs[1] if link.kind == "gated" else outputs[0])
    columns = (dead.to(consumer.weight.device) & consumer.program.live_columns).nonzero().flatten()
    kept = kept_rows(consumer.spec.layout, consumer.program.gate.derive().tolist()).to(columns.device)
    moved = (consumer.float_weight()[:, columns] @ constant[columns]) * kept  # a pruned consumer row reads nothing
    if consumer.bias is None and moved.any():
        raise ValueError(f"cannot fold pruned rows into {link.consumer!r}, which has no bias for their constant output")
    return moved


def _constant_rows(layer: QuantizedMatrix, block: RowBlock) -> Tensor:
    """What each row of the block gives when its weights are zero, `(count,)` float32."""
    bias = layer.stored_bias()
    if bias is None:
        return torch.zeros(block.count, device=layer.weight.device)
    return bias[block.start : block.start + block.count].float()


def _drop(layer: QuantizedMatrix, rows: Tensor, columns: Tensor) -> None:
    if layer.bias is not None:
        layer.live_rows &= rows
        layer.bias *= layer.live_rows
    layer.program.live_columns &= columns
    layer.program.refresh()
    layer.forget_dead_channels()
