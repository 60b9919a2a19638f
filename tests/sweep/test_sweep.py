"""Small sweeps end to end: rows, packed models, table and picture."""

import json
import shlex
import shutil

import pytest
from transformers import AutoModelForSequenceClassification

from hf_mpq.sweep import Sweep
from hf_mpq.sweep.point import _study
from hf_mpq.sweep.table import front, table
from tests.sweep.conftest import ROWS, needs_optuna

CELLS = ("score", "kl", "agreement", "unseen_kl", "unseen_agreement", "code_bits", "megabytes")


@pytest.fixture
def grid(plan, tmp_path):
    """A sweep of two budgets."""
    return Sweep(tmp_path / "out", plan(space={"budget": ["4bits", "3bits"]}))


def rows_of(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@needs_optuna
def test_a_float_model_that_changed_since_is_not_mixed_with_the_first(plan, place, tmp_path):
    shutil.copytree(place / "model", tmp_path / "model")
    settings = plan(space={"budget": ["4bits", "3bits"]}, model=str(tmp_path / "model"))
    sweep, out = Sweep(tmp_path / "out", settings), tmp_path / "out"
    sweep.run()
    (out / "results.jsonl").write_text(json.dumps(rows_of(out)[0]) + "\n")
    (out / "journal.log").unlink()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    model.bert.encoder.layer[0].output.dense.weight.data.mul_(1.5)
    model.save_pretrained(tmp_path / "model")
    _study.cache_clear()
    sweep.run()
    (one,) = sweep.missing()
    assert one["state"] == "failed" and "is not the one that" in one["error"] and "another folder" in one["error"]


@needs_optuna
def test_a_grid_has_a_row_and_a_model_of_each_run_and_the_command_of_a_row_makes_it_again(grid, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from hf_mpq.cli.main import app

    out = tmp_path / "out"
    grid.run()
    rows = rows_of(out)
    assert [(row["task"], row["method"], row["budget"], row["seed"]) for row in rows] == [
        ("sst2", "uniform", "4bits", 0),
        ("sst2", "uniform", "3bits", 0),
    ]
    assert [row["code_bits"] for row in rows] == [4, 3] and rows[1]["unseen_kl"] > rows[0]["unseen_kl"] > 0
    for row in rows:
        assert row["float_score"] == rows[0]["float_score"] and row["float_megabytes"] > row["megabytes"]
        assert (row["train_rows"], row["dev_rows"]) == (ROWS, ROWS) and len(row["date"]) == 10
        assert row["seconds"] > 0 and row["machine"] and row["commit"] and "torch" in row["versions"]
        model = AutoModelForSequenceClassification.from_pretrained(out / "packed" / row["run"])
        assert model.config.quantization_config.storage == "packed"
        assert not (out / "runs" / row["run"]).exists() and (out / "kl" / f"{row['run']}.npy").exists()
    assert grid.missing() == [] and (out / "pareto.png").exists() is False
    assert grid.report().count("\n") == 3 and (out / "pareto.png").stat().st_size > 5000

    (out / "results.jsonl").write_text(json.dumps(rows[1]) + "\n")
    (out / "journal.log").unlink()
    assert [one["name"] for one in grid.missing()] == [rows[0]["run"]]
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, shlex.split(rows[0]["command"])[1:])
    assert done.exit_code == 0, done.output
    (again,) = rows_of(tmp_path / "one-run")
    assert {name: again[name] for name in CELLS} == {name: rows[0][name] for name in CELLS}


@needs_optuna
def test_an_open_search_goes_on_after_a_run_that_fails_and_one_that_is_interrupted(plan, tmp_path, monkeypatch):
    from hf_mpq.sweep import point

    space = {"bits": 4, "learning_rate": {"low": 1e-4, "high": 1e-3}, "budget": ["1kB", "1MB"], "save_steps": 1}
    sweep = Sweep(tmp_path, plan(space=space, trials=3, objectives=("score", "megabytes", "milliseconds")))
    journal = sweep.journal()
    study = journal._studies["sst2"]
    study.enqueue_trial({"learning_rate": 2e-4, "budget": "1kB"}, user_attrs={"run": "small", "order": 0})
    study.enqueue_trial({"learning_rate": 2e-4, "budget": "1MB"}, user_attrs={"run": "large", "order": 1})
    study.enqueue_trial({"learning_rate": 3e-4, "budget": "1MB"}, user_attrs={"run": "faster", "order": 2})

    def killed(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(point.MPQTrainer, "save_packed", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep.run()
    assert (tmp_path / "runs" / "large" / "stages.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(type(journal), "done", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep.run()
    assert (tmp_path / "runs" / "large" / "stages.json").exists(), "there until the row is"
    sweep.run()
    found = {one["name"]: one for one in sweep.missing()}
    assert found.keys() == {"small"} and found["small"]["state"] == "failed" and "Budget" in found["small"]["error"]
    rows = {row["run"]: row for row in rows_of(tmp_path)}
    assert len(rows) == 2 and rows["large"]["seconds"] is None, "it went on, so that its time is not known"
    assert all(row["milliseconds"] > 0 and row["variant"].startswith("learning_rate=") for row in rows.values())


def test_the_table_stars_what_nothing_is_better_than(plan):
    made = plan(space={"method": ["mpq", "uniform"], "seed": [0, 1], "budget": ["4bits", "3bits"]})
    scores = {("mpq", "4bits"): 90, ("mpq", "3bits"): 85, ("uniform", "4bits"): 88, ("uniform", "3bits"): 70}
    sizes = {("mpq", "4bits"): 4, ("mpq", "3bits"): 3, ("uniform", "4bits"): 4.1, ("uniform", "3bits"): 2.9}
    rows = [
        {**made.key(task, point), "point": point, "score": scores[cell] + point["seed"], "megabytes": sizes[cell]}
        for task, point in made.points()
        for cell in [(point["method"], point["budget"])]
    ]
    lines = table(rows, made).splitlines()[2:]
    assert [line.split(" | ")[1:3] + [line.endswith("| * |")] for line in lines] == [
        ["uniform", "3bits", True],
        ["mpq", "3bits", True],
        ["mpq", "4bits", True],
        ["uniform", "4bits", False],
    ]
    assert "| 85.50 ± " in lines[1] and "| 3.00 | 2 |" in lines[1]
    assert front({"a": [1.0, 2.0], "b": [1.0, 2.0], "c": [1.0, 3.0]}, ("score", "megabytes")) == {"a", "b"}


@needs_optuna
@pytest.mark.full
def test_several_processes_at_once(grid):
    from hf_mpq.sweep.workers import run_in_processes

    run_in_processes(grid, 2)
    assert len(grid.rows) == 2 and grid.missing() == []
