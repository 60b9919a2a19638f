"""`hf-mpq train`: arguments and exit codes go through `accelerate launch`."""

import json
import os
import signal
import time

import psutil
import pytest

from hf_mpq.cli.commands.train import RECIPES, find_recipe
from tests.processes import start_python

SCRIPT = """
import json, os, sys
json.dump([sys.argv[1:], "ACCELERATE_MIXED_PRECISION" in os.environ], open("seen.json", "w"))
sys.exit(7)
"""


@pytest.mark.parametrize("processes", [(), pytest.param(("--processes", "2"), marks=pytest.mark.full)])
def test_arguments_and_exit_code(processes, tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.py").write_text(SCRIPT)
    run("train", *processes, "recipe.py", "some.yaml", "--budget", "3bits", "--", "--debug", "yes", code=7)
    assert json.loads((tmp_path / "seen.json").read_text()) == [
        ["some.yaml", "--budget", "3bits", "--debug", "yes"],
        True,
    ]


def test_a_recipe_that_a_signal_ends(tmp_path, run):
    (tmp_path / "recipe.py").write_text("import os; os.kill(os.getpid(), 9)")
    run("train", tmp_path / "recipe.py", code=128 + 9)


@pytest.mark.full
def test_a_signal_to_the_command_alone_ends_the_recipe_too(tmp_path):
    """As systemd or a queue of jobs sends it."""
    recipe, told = tmp_path / "recipe.py", tmp_path / "pid"
    recipe.write_text(f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    process = start_python(["-c", "from hf_mpq.cli.main import app; app()", "train", recipe], tmp_path)
    while not told.exists() or not told.read_text():
        assert process.is_alive()
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    process.join(timeout=100)
    assert process.exitcode == 128 + signal.SIGTERM and not psutil.pid_exists(int(told.read_text()))
    last = (tmp_path / "stderr").read_text().splitlines()[-2:]
    assert last[-1] == "interrupted; the repository's recipes go on when the same command is given again"
    assert "nothing half written" not in last[0]


@pytest.mark.parametrize("name", ["run_glue", "run_glue.py", str(RECIPES / "run_glue.py")])
def test_recipes_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe(name) == RECIPES / "run_glue.py"


def test_unknown_recipe(refused):
    assert refused("train", "run_everything") == (
        "error: there is no recipe 'run_everything'; those that come with hf_mpq are run_glue, run_ner, run_squad"
    )
