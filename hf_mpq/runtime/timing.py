"""How long a model takes here, whole and with fewer rows and heads: the table behind budgets in milliseconds."""

import copy
import statistics
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .._extras import require
from ..cost import LatencyTable
from ..nn import absolute_names, family_of
from .prepare import prepare
from .shrinking import dense_shape, shrunk

SHARES = (0.85, 0.6, 0.35, 0.15, 0.0)
"""Of the feed-forward rows, and of the heads, that are left; at least one. Multiples of 64 rows, which pruning rarely
leaves, would be a little faster."""
SECONDS, LEAST_SECONDS = 1.5, 0.02
"""For each of them, and for one turn."""
FEWEST_ROUNDS, MOST_ROUNDS = 5, 25


def measure_latencies(model: nn.Module, batch: int, tokens: int, backend: str = "auto") -> LatencyTable:
    """Time a packed model, and copies with fewer rows or heads in every layer. Each copy takes turns with the whole
    model, and their ratio counts, so that a machine that gets slower meanwhile does little harm.

    Args:
        model: packed, unpruned, of a known family, on the CPU; left as it is.
        batch, tokens: of the input.
        backend: as of `prepare`.
    """
    inputs = example(model, batch, tokens)
    whole = prepare(copy.deepcopy(model), backend)
    rows, heads = dense_shape(model)
    shares, taken = {"rows": {rows: 1.0}, "heads": {heads: 1.0}}, []
    for what, full in (("rows", rows), ("heads", heads)):
        for count in sorted({max(round(share * full), 1) for share in SHARES} - {full}) if full else ():
            own, other = in_turn(whole, prepare(shrunk(model, **{what: count}), backend), inputs)
            shares[what][count] = undisturbed(other) / undisturbed(own)
            taken += own
    share, layers = _inside_layers(whole, inputs)
    milliseconds = undisturbed(taken)
    points = {what: _rising(found, milliseconds) for what, found in shares.items()}
    return LatencyTable(milliseconds, milliseconds * share, points["rows"], points["heads"], layers)


def example(model: nn.Module, batch: int, tokens: int) -> dict[str, Tensor]:
    """Random ids, the same every time, and a mask that hides none."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (batch, tokens), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def clock() -> float:
    """Seconds; on one thread those that it works, so that what other processes take of the CPU does not count."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def undisturbed(times: list[float]) -> float:
    """The median of what one thread works; of several, whose wall time other processes add to, the lowest decile."""
    alone = torch.get_num_threads() == 1
    return statistics.median(times) if alone else statistics.quantiles(times, n=10, method="inclusive")[0]


@torch.inference_mode()
def in_turn(first: nn.Module, second: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[list[float], list[float]]:
    """Milliseconds of passes of each, some in a row, in turn."""
    each = max(_milliseconds(model, inputs, 1)[0] for model in (first, second)) / 1000
    calls = max(1, round(LEAST_SECONDS / each))
    rounds = min(max(round(SECONDS / (2 * (calls + 1) * each)), FEWEST_ROUNDS), MOST_ROUNDS)
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for model, times in zip((first, second), taken):
            times += _milliseconds(model, inputs, calls)
    return taken


def _milliseconds(model: nn.Module, inputs: Mapping[str, Tensor], calls: int) -> list[float]:
    """Of each of some passes, after one that does not count: the first is slower."""
    model(**inputs)
    taken = []
    for _ in range(calls):
        start = clock()
        model(**inputs)
        taken.append(1000 * (clock() - start))
    return taken


@torch.inference_mode()
def _inside_layers(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[float, int]:
    """The share of a pass that is spent in encoder layers, and how many a pass runs."""
    marks, shares, family, absolute = [], [], family_of(model), absolute_names(model)
    layers = [model.get_submodule(absolute(prefix)) for prefix in family.layer_prefixes(model)]
    hooks = [
        hook
        for layer in layers
        for hook in (
            layer.register_forward_pre_hook(lambda *_: marks.append(-clock())),
            layer.register_forward_hook(lambda *_: marks.append(clock())),
        )
    ]
    for _ in range(FEWEST_ROUNDS + 1):
        marks.clear()
        start = clock()
        model(**inputs)
        shares.append(sum(marks) / (clock() - start))
    for hook in hooks:
        hook.remove()
    return statistics.median(shares[1:]), len(marks) // 2


def _rising(shares: Mapping[int, float], milliseconds: float) -> tuple[tuple[float, float], ...]:
    """Points in order, their times made to rise up to that of the whole model: what goes down between two counts, or
    takes longer than all of it, is noise."""
    require("train", "a budget in milliseconds")
    from scipy.optimize import isotonic_regression

    *fewer, full = sorted(shares)
    rising = isotonic_regression([shares[count] for count in fewer]).x.clip(max=1) if fewer else ()
    times = (milliseconds * share for share in (*rising, 1.0))
    return tuple((float(count), float(time)) for count, time in zip((*fewer, full), times))
