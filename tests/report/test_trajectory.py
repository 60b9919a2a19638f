"""What a training run left, and the picture of its search."""

import pytest
from matplotlib.collections import PolyCollection

from hf_mpq.report import search_trajectory
from hf_mpq.runs.reader import read_run
from tests.report.pictures import drawn, words
from tests.training.runs import quantized, trainer


def test_a_run_is_read_from_its_folder(searched):
    run = read_run(searched)
    assert (run.method, run.budget) == ("mpq", "3bits")
    assert [stage.name for stage in run.stages] == ["search", "qat"] and run.search is run.stages[0]
    for stage in run.stages:
        assert 0 <= stage.result["steps"] - stage.history[-1]["step"] < 2 < len(stage.history)
        assert stage.result["packed_megabytes"] > 0 and stage.result["seconds"] > 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_trajectory_shows_what_the_search_logged(searched, dark):
    rows = [row for row in read_run(searched).search.history if "cost" in row]
    figure = search_trajectory(searched, dark)
    lines = {line.get_label(): line for axis in figure.axes for line in axis.lines}
    assert {"temperature", "uncertainty", "expected cost", "cost", "penalty"} <= set(lines)
    assert list(lines["expected cost"].get_ydata()) == [row["expected_cost"] for row in rows]
    areas = [area for axis in figure.axes for area in axis.collections if isinstance(area, PolyCollection)]
    assert [area.get_label() for area in areas] == ["pruned", "2 bits", "4 bits", "8 bits"]
    assert "the budget is 3bits" in words(figure) and "mpq" in words(figure)
    drawn(figure)


def test_folders_without_a_search_are_refused(tmp_path):
    with pytest.raises(ValueError, match="output_dir of an MPQTrainer"):
        search_trajectory(tmp_path)
    trainer(quantized("uniform", bits=4), tmp_path / "run", max_steps=2).train()
    with pytest.raises(ValueError, match="has no search: its stages are qat"):
        search_trajectory(tmp_path / "run")
