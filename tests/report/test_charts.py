"""Pareto fronts, sensitivity maps and latency charts."""

import json

import numpy as np
import pytest
import torch
from matplotlib.container import ErrorbarContainer

import hf_mpq
from hf_mpq.report import latency_chart, pareto_front, sensitivity_map
from hf_mpq.report.figures.run_points import front, points_of
from hf_mpq.report.figures.theme import DARK, LIGHT
from tests.report.pictures import drawn, words
from tests.tiny import tiny_model

SIZES = {"2bits": 15.0, "4bits": 20.0}


def runs(task: str = "sst2") -> list[dict]:
    """Two methods and a baseline, two budgets, three seeds, and the float model."""
    rows = [
        {
            "task": task,
            "method": "float",
            "variant": "",
            "budget": "",
            "seed": 0,
            "score": 92.0,
            "megabytes": 90.0,
            "unseen_kl": 0.0,
        }
    ]
    for method, start in (("mpq", 90.0), ("aq-bert", 89.0), ("uniform", 87.0)):
        for budget, size in SIZES.items():
            for seed in range(3):
                score = start + size / 20 + seed / 10
                key = {"task": task, "method": method, "variant": "", "budget": budget, "seed": seed}
                rows.append({**key, "score": score, "megabytes": size + seed / 1e4, "unseen_kl": (100 - score) / 50})
    return rows


def errorbars(axis) -> dict:
    return {bars.get_label(): bars for bars in axis.containers if isinstance(bars, ErrorbarContainer)}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_pareto_front_has_a_point_for_each_budget_and_a_picture_for_each_task(dark, tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in [*runs("sst2"), *runs("mrpc")]))
    figure = pareto_front(file, dark=dark)
    assert [axis.get_title() for axis in figure.axes] == ["sst2", "mrpc"]
    for axis in figure.axes:
        bars = errorbars(axis)
        assert list(bars) == ["mpq", "aq-bert", "uniform"]
        line = bars["mpq"].lines[0]
        np.testing.assert_allclose(line.get_xydata(), [[15.0001, 90.85], [20.0001, 91.1]], atol=1e-9)
        heights = np.diff([segment[:, 1] for segment in bars["mpq"].lines[2][0].get_segments()])
        np.testing.assert_allclose(heights, 0.2)
        assert bars["uniform"].lines[0].get_linestyle() == "--" != line.get_linestyle()
        assert bars["uniform"].lines[0].get_markerfacecolor() == (DARK if dark else LIGHT).page
        assert "float, at 90" in words(figure) and "MB on disk" in words(figure)
    assert drawn(figure).std() > 0


def test_divergence_is_better_when_low_and_logarithmic():
    axis = pareto_front(runs(), y="unseen_kl", lower_is_better=True).axes[0]
    assert axis.get_yscale() == "log" and "KL" in axis.get_ylabel()
    shown = next(line for line in axis.lines if line.get_label() == "front")
    np.testing.assert_allclose(shown.get_ydata(), [(100 - 90.85) / 50, (100 - 91.1) / 50])


def test_the_front_is_what_nothing_as_small_beats():
    rows = [
        {"name": name, "megabytes": x, "score": y}
        for name, x, y in (("a", 10, 80.0), ("b", 10.05, 79.0), ("c", 12, 79.5), ("d", 14, 85.0))
    ]
    points = points_of(rows, "megabytes", "score")
    assert [point.name for point in front(points, lower_is_better=False)] == ["a", "d"]
    assert [point.name for point in front(points, lower_is_better=True)] == ["b"]


def test_runs_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="no runs to draw"):
        pareto_front([])
    with pytest.raises(ValueError, match="neither 'name' nor 'method'"):
        pareto_front([{"megabytes": 1.0, "score": 2.0}])
    with pytest.raises(ValueError, match="no 'score'"):
        pareto_front([{"name": "a", "megabytes": 1.0}])


@pytest.mark.parametrize("family", ["bert", "albert", "deberta-v2", "modernbert"])
def test_a_sensitivity_map_has_a_cell_for_each_sub_group_and_candidate(family):
    space = hf_mpq.MPQConfig(bits=(0, 2, 4), groups=8).resolve(tiny_model(family))
    random = torch.Generator().manual_seed(0)
    scores = {
        name: torch.rand(spec.layout.count, len(spec.candidates), generator=random) + 0.1
        for name, spec in space.weights.items()
        if spec.role == "encoder"
    }
    figure = sensitivity_map(space, scores)
    images = [image for axis in figure.axes for image in axis.images]
    assert sum(image.get_array().count() for image in images) == sum(table.numel() for table in scores.values())
    total = sum(float(image.get_array().sum()) for image in images)
    assert total == pytest.approx(float(sum(table.sum() for table in scores.values())), rel=1e-5)
    titles = [axis.get_title() for axis in figure.axes]
    assert {"query", "key", "value", "output", "up", "down"} <= set(titles)
    assert "0, 2, 4 bits" in words(figure)
    assert all(type(image.norm).__name__ == "LogNorm" for image in images)
    drawn(figure)


def test_tables_stand_beside_the_layers_and_what_is_not_allowed_stays_empty():
    space = hf_mpq.MPQConfig(bits=(2, 4), groups=8, embedding_bits=(2, 8)).resolve(tiny_model("bert"))
    scores = {
        name: torch.ones(spec.layout.count, 2) for name, spec in space.weights.items() if spec.role != "projection"
    }
    name = "encoder.layer.0.output.dense"
    scores[name] = torch.tensor([[float("inf"), 1.0]]).repeat(8, 1)
    axes = {axis.get_title(): axis for axis in sensitivity_map(space, scores, dark=True).axes}
    assert [label.get_text() for label in axes["tables"].get_yticklabels()] == ["word", "position", "token type"]
    assert axes["down"].images[0].get_array()[:3].count() == 8


def test_scores_that_do_not_fit_are_refused():
    space = hf_mpq.MPQConfig(bits=(2, 4), groups=8).resolve(tiny_model("bert"))
    with pytest.raises(ValueError, match="no matrix 'nowhere'"):
        sensitivity_map(space, {"nowhere": torch.ones(8, 2)})
    with pytest.raises(ValueError, match="8 sub-groups and 2 candidates"):
        sensitivity_map(space, {"encoder.layer.0.output.dense": torch.ones(8, 3)})
    with pytest.raises(ValueError, match="no score is positive"):
        sensitivity_map(space, {"encoder.layer.0.output.dense": torch.zeros(8, 2)})


def test_a_latency_chart_shows_median_and_quartiles_of_each_engine_and_shape():
    long = [
        {"engine": "float", "shape": "1x128", "times": [10.0, 12.0, 11.0, 30.0]},
        {"engine": "packed", "shape": "1x128", "ms": 5.0, "quartiles": [4.0, 7.0]},
    ]
    wide = [{"engine": "float", "megabytes": 90.0, "8x128": {"ms": 80.0, "quartiles": [75.0, 90.0], "ratio": 1.0}}]
    figure = latency_chart([*long, *wide])
    assert [axis.get_title() for axis in figure.axes] == ["1 input of 128 tokens", "8 inputs of 128 tokens"]
    assert {"float", "packed", "11.5", "5", "80"} <= set(words(figure).split("\n"))
    bars = [line.get_xydata() for line in figure.axes[0].lines]
    np.testing.assert_allclose(bars[2], [[4.0, 1.0], [7.0, 1.0]])
    assert drawn(figure).std() > 0


def test_a_latency_chart_needs_something_measured():
    with pytest.raises(ValueError, match="engine, shape and times"):
        latency_chart([{"engine": "float", "megabytes": 90.0}])
