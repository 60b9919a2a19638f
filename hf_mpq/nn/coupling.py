"""Matrices that read what others pass on in part: a gate over rows reaches the columns behind them."""

from torch import nn

from .families import family_of
from .linear import MPQLinear
from .naming import relative_modules


def couple(model: nn.Module) -> nn.Module:
    """Let every second feed-forward matrix read as much of each row of the first as the gate there keeps, in place.

    For rows that a gate keeps to the share `kappa` it reads `kappa` times their output: as if its columns were
    `A diag(kappa)`. In a gated unit it is the product of both halves that is read. Once the gate is decided there is
    nothing left to do: what is pruned is folded away.
    """
    family = family_of(model)
    if family is None:
        return model
    layers = dict(relative_modules(model, MPQLinear))
    for link in family.links(model):
        if len({block.name for block in link.blocks}) > 1:
            continue
        maker, reader = layers.get(link.blocks[0].name), layers.get(link.consumer)
        if link.kind in ("pointwise", "gated") and maker is not None and reader is not None:
            reader.read_from(maker.program if maker.program.gate.sets_width else None)
    return model
