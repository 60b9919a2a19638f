"""How long smaller shapes of a model take here: what the curve of `hf_mpq.cost.shape_latency` goes through."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..core import PrecisionSpace
from ..cost.shape_latency import Measured, ShapeLatencies
from .latency import latency_table, unpruned
from .machine import remembered
from .prepare import prepare
from .timing import example, in_turn, undisturbed

Shape = tuple[int, int, int]
"""Layers, hidden size, feed-forward rows."""


def shape_latencies(
    space: PrecisionSpace,
    whole: Shape,
    shapes: Sequence[Shape],
    held_out: Sequence[Shape],
    packed: Callable[[Shape], nn.Module],
    batch: int,
    tokens: int,
    backend: str = "auto",
) -> ShapeLatencies:
    """Times of a model and of smaller ones like it, measured at the first call and kept; the whole model's, and those
    with fewer rows in every layer, are in the table that budgets in milliseconds have.

    Args:
        space: of the whole model.
        whole: its shape.
        shapes, held_out: to measure; the curve goes through the first and the table's own.
        packed: makes a packed model of a shape; its weights make no difference.
        batch, tokens: of the input.
        backend: as of `prepare`.
    """
    table = latency_table(space, batch, tokens, backend)
    layers, hidden, _ = whole
    known = tuple((layers, hidden, int(rows), ms) for rows, ms in table.rows)
    measured: Mapping[str, Any] = {
        "shapes": [list(one) for one in (*shapes, *held_out)],
        "points": [list(one) for one in known],
        "whole": table.to_dict(),
        "batch": batch,
        "tokens": tokens,
        "backend": backend,
    }

    def measure() -> ShapeLatencies:
        with torch.random.fork_rng(devices=[]):
            model = prepare(unpruned(space, batch, tokens), backend)
        inputs = example(model, batch, tokens)

        def time(shape: Shape) -> Measured:
            own, other = in_turn(model, prepare(packed(shape), backend), inputs)
            return (*shape, table.whole * undisturbed(other) / undisturbed(own))

        return ShapeLatencies((*known, *map(time, shapes)), tuple(map(time, held_out)))

    return remembered(measured, measure, ShapeLatencies)
