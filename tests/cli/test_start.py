"""What holds for every command: light modules, errors of one line, quiet where nobody watches."""

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import hf_mpq.cli
from hf_mpq.cli.typed import WORDS
from tests.processes import run_python

FOLDER = Path(hf_mpq.cli.__file__).parent
LIGHT = {*sys.stdlib_module_names, "typer", "rich", "numpy", "scipy"}
HEAVY = ("torch", "transformers", "datasets", "huggingface_hub", "matplotlib", "pandas", "scipy", "accelerate")
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
    allowed = allowed | {"hf_mpq"} if path.name == "typed.py" else allowed
    assert top_level_imports(path) <= allowed


AT_ONCE = [
    (0, "--version"),
    (0, "--help"),
    (0, "compress", "--help"),
    (2, "compress", "my-bert", "--budgt", "25%"),
    (2, "compress", "my-bert", "--budget", "4", "--out", "x"),
    (2, "compress", "my-bert", "--budget", "25%", "--budget", "12MB", "--out", "x"),
    (2, "compress", "a/b/c", "--bits", "4", "--out", "x"),
    (2, "compress", "me/bert", "--method", "qbert", "--out", "x"),
    (2, "inspect", "a/b/c"),
    (2, "compress", "me/bert", "--budget", "25%", "--out", "x", "--data", "sst3"),
    (2, "compress", "me/bert", "--budget", "25%", "--out", "x", "--scorer", "fischer"),
    (2, "doctor", "a/b/c"),
    (2, "verify", "a/b/c", "--teacher", "me/bert", "--data", "sst2"),
    (2, "train", "nothing"),
    (2, "sweep", "--out", "x", "--task", "sst3"),
    (2, "export", "me/bert", "onx", "--out", "x"),
    (2, "bench", "me/bert", "--backend", "cpu-in8"),
    (2, "bench", "me/bert", "--shapes", "many"),
    (2, "push", "a/b/c", "me/small-bert"),
    (2, "extract", "a/b/c", "--bits", "4", "x"),
    (2, "extract", "me/bert", "--bits", "4 bits or so", "x"),
]
IN_TURN = """
import json, sys
from typer.testing import CliRunner
from hf_mpq.cli.main import app

found = []
for code, *arguments in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, arguments)
    found.append([result.exit_code == code, [name for name in json.loads(sys.argv[2]) if name in sys.modules]])
print(json.dumps(found))
"""


def test_what_was_typed_is_checked_before_anything_heavy_is_imported(tmp_path):
    command = [sys.executable, "-c", IN_TURN, json.dumps(AT_ONCE), json.dumps(HEAVY)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert dict(zip(map(str, AT_ONCE), json.loads(done.stdout))) == {str(one): [True, []] for one in AT_ONCE}


REGISTRIES = {
    "scorer": "hf_mpq.search:SCORERS",
    "allocator": "hf_mpq.search:ALLOCATORS",
    "rounding": "hf_mpq.rounding:ROUNDERS",
    "export format": "hf_mpq.exporters:EXPORTERS",
    "activations": "hf_mpq.exporters.base:RANGE_CHOICES",
    "task": "hf_mpq.tasks:TASKS",
    "backend": "hf_mpq.runtime:BACKENDS",
    "pooling": "hf_mpq.nn.pooling:POOLINGS",
}


@pytest.mark.parametrize("kind", WORDS)
def test_the_words_of_commands_are_those_that_are_registered(kind):
    module, name = REGISTRIES[kind].split(":")
    assert sorted(WORDS[kind]) == sorted(getattr(import_module(module), name))


def test_version(run):
    assert run("--version").stdout == f"{hf_mpq.__version__}\n"


def test_mistake_in_a_process_of_its_own(here):
    """One line, no traceback, code 2; nothing on stdout that a program could take for a result."""
    done = run_python(["-m", "hf_mpq.cli.main", "inspect", "nowhere/at/all"], cwd=here)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "error: there is no folder nowhere/at/all: give a model's folder, or its name on the Hub"
    )


@pytest.mark.parametrize(
    "command",
    ["inspect", "doctor", "compress --bits 8 --out new", "export dense --out new", "bench", "push me/small"],
)
def test_a_name_that_is_nowhere_is_said_in_one_line(command, here, run):
    verb, *rest = command.split()
    said = run(verb, "nobody-has-this", *rest, code=2).stderr.splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and " nobody-has-this" in said[0].replace("'", " ")
    assert not (here / "new").exists()


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
