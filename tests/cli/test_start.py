"""What holds for every command: light modules, errors of one line, quiet where nobody watches."""

import ast
import sys
from pathlib import Path

import pytest

import hf_mpq.cli
from tests.processes import run_python

FOLDER = Path(hf_mpq.cli.__file__).parent
LIGHT = {*sys.stdlib_module_names, "typer", "rich", "numpy", "scipy"}
NUMERIC = {"bitmap.py", "loyalty.py", "pruned.py", "scores.py"}
COMMAND = [sys.executable, "-m", "hf_mpq.cli.main"]


def top_level_imports(path: Path) -> set[str]:
    """First names of absolute imports that run when a module is imported."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_heavy_imports_are_inside_commands(path):
    allowed = LIGHT if path.name in NUMERIC else LIGHT - {"numpy", "scipy"}
    assert top_level_imports(path) <= allowed


def test_version(run):
    assert run("--version").stdout == f"{hf_mpq.__version__}\n"


def test_mistake_in_a_process_of_its_own(here):
    """One line, no traceback, code 2; nothing on stdout that a program could take for a result."""
    done = run_python(["-m", "hf_mpq.cli.main", "inspect", "nowhere/at/all"], cwd=here)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == ("error: there is no folder nowhere/at/all: give a model's folder, or its "
                                            "name on the Hub")  # fmt: skip


@pytest.mark.parametrize("how", ["option", "environment"])
def test_debug_shows_where(how, run, monkeypatch):
    if how == "environment":
        monkeypatch.setenv("HF_MPQ_DEBUG", "1")
    result = run("inspect", "nowhere/at/all", *(["--debug"] if how == "option" else []), code=2)
    assert "there is no folder" in result.stderr.splitlines()[-1] and "Traceback" in result.stderr


def test_results_go_to_stdout_without_colours_or_bars(here, run):
    result = run("verify", "packed", "--teacher", "my-fine-tuned-bert", "--data", "rows.csv")
    assert "\x1b" not in result.output and "it/s" not in result.output and "PASSED" in result.stdout
    assert result.stderr == ""
