"""Latencies of several models side by side, in turn, so that a machine that gets slower meanwhile is fair to all."""

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

LEAST_SECONDS = 0.02
"""Short calls are repeated until a measurement lasts so long."""


def take_turns(
    models: "Mapping[str, nn.Module]", inputs: "Mapping[str, Tensor]", rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of one pass of each model, once a round, after passes to warm up."""
    import torch

    with torch.inference_mode():
        calls = {name: _calls(model, inputs) for name, model in models.items()}
        taken = {name: [] for name in models}
        for _ in range(rounds):
            for name, model in models.items():
                model(**inputs)
                start = _now(model)
                for _ in range(calls[name]):
                    model(**inputs)
                taken[name].append(1000 * (_now(model) - start) / calls[name])
    return taken


def _calls(model: "nn.Module", inputs: "Mapping[str, Tensor]") -> int:
    """How many passes make a measurement long enough, found after two to warm up."""
    for _ in range(2):
        model(**inputs)
    start = _now(model)
    model(**inputs)
    return max(1, round(LEAST_SECONDS / (_now(model) - start)))


def _now(model: "nn.Module") -> float:
    from ..core.stopwatch import seconds

    return seconds(model.device)


def summary(times: list[float], batch: int) -> dict[str, float]:
    """Median and quartiles in milliseconds, and sequences per second at the median."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return {
        "median_ms": middle,
        "quartile_1_ms": low,
        "quartile_3_ms": high,
        "sequences_per_second": 1000 * batch / middle,
    }
