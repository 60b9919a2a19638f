"""`hf-mpq sweep`: what was typed, what is left, and mistakes of one line."""

import json
from importlib.util import find_spec

import pytest

from hf_mpq.cli.commands.sweep import _check_model
from hf_mpq.cli.errors import UserError

MODEL = ("--model", "my-fine-tuned-bert", "--task", "sst2")
needs_optuna = pytest.mark.skipif(find_spec("optuna") is None, reason="pip install 'hf_mpq[sweep]'")


@pytest.mark.parametrize(
    "words, said",
    [
        (("--task", "sst3"), "unknown task 'sst3'; did you mean 'sst2'?"),
        ((*MODEL, "--method", "aq-brt"), "did you mean 'aq-bert'?"),
        ((*MODEL, "--budget", "3"), "has no unit"),
        ((*MODEL, "--vary", "learning_rate"), "write NAME=VALUES"),
        ((*MODEL, "--vary", "bits=[2, 4"), "is no YAML"),
        ((*MODEL, "--vary", "seed=[1]", "--seed", "2"), "seed is given twice"),
        ((*MODEL, "--space", "nothing.yaml"), "no file nothing.yaml"),
        ((*MODEL, "--space", "rows.txt"), "has no lines such as"),
        (("--table", "--missing"), "not both"),
        ((*MODEL, "--epochs", "0"), "--epochs is a number above 0; got 0"),
        ((*MODEL, "--learning-rate", "nan"), "--learning-rate is a number above 0; got nan"),
        (("--model", "./no-{task}", "--task", "sst2"), "there is no folder ./no-sst2"),
        ((*MODEL, "--ray", "--workers", "2"), "not both"),
    ],
)
def test_mistakes(words, said, here, tmp_path, refused):
    assert said in refused("sweep", "--out", tmp_path / "out", *words)


@needs_optuna
@pytest.mark.parametrize(
    "words, said",
    [
        (("--task", "sst2"), "has no sweep: say what it is to run, at least --model and --task"),
        ((*MODEL, "--vary", "learning_rte=1"), "did you mean 'learning_rate'?"),
        ((*MODEL, "--objective", "size"), "unknown objective 'size'"),
        ((*MODEL, "--method", "hawq-v3"), "is not trained"),
        ((*MODEL, "--vary", "learning_rate={low: 1e-5, high: 1e-3}"), "give trials"),
    ],
)
def test_mistakes_that_need_the_known_names(words, said, here, tmp_path, refused):
    assert said in refused("sweep", "--out", tmp_path / "out", *words)
    assert not (tmp_path / "out" / "sweep.json").exists()


@needs_optuna
def test_what_is_missing_is_listed_and_a_changed_space_is_refused(here, tmp_path, run, refused):
    out = tmp_path / "out"
    (tmp_path / "space.yaml").write_text("budget: [3bits, 4bits]\nlearning_rate: [1e-4, 2.0e-4]\n")
    words = (*MODEL, "--space", tmp_path / "space.yaml", "--budget", "3bits", "--data-dir", "data")
    listed = run("sweep", "--out", out, *words, "--missing", code=1).stdout.splitlines()
    assert len(listed) == 2 and all(line.startswith("waiting  sst2-mpq-3bits-0-") for line in listed)
    left = json.loads(run("sweep", "--out", out, "--missing", "--json", code=1).stdout)
    assert [one["point"]["learning_rate"] for one in left] == [1e-4, 2e-4]
    assert "no run is done yet" in run("sweep", "--out", out, "--table").stdout
    said = refused("sweep", "--out", out, "--budget", "2bits", "--missing")
    assert "another sweep" in said and "give another --out" in said


@needs_optuna
def test_data_that_is_not_there_is_an_error_before_anything_runs(here, tmp_path, run, refused):
    (tmp_path / "data").mkdir()
    said = refused("sweep", "--out", tmp_path / "out", *MODEL, "--data-dir", tmp_path / "data")
    assert "task's is called 'sst2'" in said and "--data-dir takes the folder" in said
    assert "waiting  sst2-mpq" in run("sweep", "--out", tmp_path / "out", "--missing", code=1).stdout


def test_a_model_of_each_task_is_looked_for_where_tasks_are_said(tmp_path):
    """They may stand in the plan of the folder."""
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "config.json").write_text("{}")
    model = f"{tmp_path}/{{task}}"
    _check_model(model, ())
    _check_model(model, ("sst2",))
    with pytest.raises(UserError, match=r"there is no folder .*mrpc"):
        _check_model(model, ("sst2", "mrpc"))
