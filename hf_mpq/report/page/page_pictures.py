"""The figures of a page."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ...runs.reader import Run
from ..figures.bit_map import bit_map
from ..figures.latency_chart import latency_chart
from ..figures.pareto import pareto_front
from ..figures.pictures import Picture, picture
from ..figures.sensitivity import sensitivity_map
from ..figures.trajectory import search_trajectory
from ..measures.model_space import scored_space
from ..measures.model_summary import ModelSummary


def model_pictures(model: nn.Module, summary: ModelSummary) -> Iterator[Picture]:
    """What the model is, and how fast."""
    if summary.pruned is not None:
        yield picture(
            "Bits of every sub-group",
            "A cell is an output neuron; each line of query, key and value is one head.",
            lambda dark: bit_map(model, dark, title=""),
            "png",
        )
    if summary.float_latency is not None:
        speeds = {"teacher": summary.float_latency, "compressed": summary.latency}
        rows = [
            {
                "engine": f"{name} ({one.backend})",
                "shape": f"{one.batch}x{one.tokens}",
                "ms": one.milliseconds,
                "quartiles": (one.low, one.high),
            }
            for name, one in speeds.items()
        ]
        yield picture("Latency", summary.place, lambda dark: latency_chart(rows, dark))


def run_pictures(run: Run | None, folder: str | Path | None) -> Iterator[Picture]:
    """What its run did."""
    if run is None:
        return
    if run.search is not None and any("cost" in row for row in run.search.history):
        yield picture(
            "The search",
            "What its gates did, what it would cost, and what it minimised.",
            lambda dark: search_trajectory(folder, dark),
        )
    scored = scored_space(folder)
    if scored is not None:
        yield picture(
            "Sensitivity",
            "How much each precision of each sub-group hurts, before any training.",
            lambda dark: sensitivity_map(*scored, dark),
            "png",
        )


def front_pictures(runs: Any, options: Mapping[str, Any]) -> Iterator[Picture]:
    """The model's runs beside others, where there are any."""
    if runs is not None:
        yield picture(
            "Beside other runs",
            "The pale line is what none of at most the same size is better than.",
            lambda dark: pareto_front(runs, **options, dark=dark),
        )
