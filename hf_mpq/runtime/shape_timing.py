"""How long smaller shapes of a model take here: what the curve of `hf_mpq.cost.shape_latency` goes through."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from ..core import PrecisionSpace
from ..cost.shape_latency import Measured, ShapeLatencies
from .latency import latency_table, model_words, unpruned
from .machine import remembered
from .prepare import prepare
from .timing import example, in_turn, undisturbed

Shape = tuple[int, int, int]
"""Layers, hidden size, feed-forward rows."""
FLOAT = "float"


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
    measured = {
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
        beside = _Beside(model, batch, tokens)
        ratios = {shape: beside.ratio(prepare(packed(shape), backend)) for shape in (*shapes, *held_out)}
        return _latencies(known, ratios, table.whole, held_out)

    return remembered(measured, measure, ShapeLatencies)


def float_shape_latencies(
    space: PrecisionSpace,
    whole: Shape,
    shapes: Sequence[Shape],
    held_out: Sequence[Shape],
    plain: Callable[[Shape], nn.Module],
    batch: int,
    tokens: int,
) -> ShapeLatencies:
    """The same of float models, as PyTorch runs them: what a search for int8 may be compared with.

    Args:
        plain: makes a float model of a shape.
    """
    measured = {
        "model": model_words(space),
        "whole": list(whole),
        "shapes": [list(one) for one in (*shapes, *held_out)],
        "batch": batch,
        "tokens": tokens,
        "backend": FLOAT,
    }

    def measure() -> ShapeLatencies:
        beside = _Beside(plain(whole), batch, tokens)
        ratios = {shape: beside.ratio(plain(shape)) for shape in (*shapes, *held_out)}
        milliseconds = undisturbed(beside.taken)
        return _latencies(((*whole, milliseconds),), ratios, milliseconds, held_out)

    return remembered(measured, measure, ShapeLatencies)


class _Beside:
    """Times models in turn with the whole one, so that a machine that gets slower meanwhile does little harm.

    Attributes:
        taken: milliseconds of the whole one's passes.
    """

    def __init__(self, model: nn.Module, batch: int, tokens: int):
        self._model, self._inputs = model, example(model, batch, tokens)
        self.taken: list[float] = []

    def ratio(self, other: nn.Module) -> float:
        """Time of another model over that of the whole one."""
        own, times = in_turn(self._model, other, self._inputs)
        self.taken += own
        return undisturbed(times) / undisturbed(own)


def _latencies(
    known: Sequence[Measured], ratios: dict[Shape, float], whole: float, held_out: Sequence[Shape]
) -> ShapeLatencies:
    points: list[Measured] = [(*shape, whole * ratio) for shape, ratio in ratios.items() if shape not in held_out]
    return ShapeLatencies((*known, *points), tuple((*shape, whole * ratios[shape]) for shape in held_out))
