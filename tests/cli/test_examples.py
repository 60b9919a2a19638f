"""Every example of every `--help` is run as it stands, in a folder that has what it names."""

import re
import shlex
import shutil

import pytest

from hf_mpq.cli.main import app
from tests.cli.conftest import needs_minilm

COMMANDS = [command.name for command in app.registered_commands]
SMALLER = {
    "compress": "--data-dir data --examples 16 --rounding nearest",
    "verify": "--data-dir data",
    "export": "--data-dir data --examples 16",
    "bench": "--rounds 2 --no-loading --shapes 1x16 --backend reference",
    "demo": "--rows 48 --epochs 0.1",
    "train": "--per_device_train_batch_size 8 --num_train_epochs 2 --max_length 32 --calibration_examples 8 "
             "--selection_examples 8 --use_cpu --disable_tqdm true --data_dir data",
}  # fmt: skip
"""Options after the example's own that make it short, and take the data from here."""
SLOW = ("hf-mpq train run_glue", "hf-mpq demo")


def examples() -> list[str]:
    """The lines that begin with the command's name, as the source of `--help` has them."""
    texts = (command.callback.__doc__ for command in app.registered_commands)
    return [line.strip() for text in texts for line in text.splitlines() if line.strip().startswith("hf-mpq ")]


def marks(line: str) -> list:
    slow = [pytest.mark.full] if line.startswith(SLOW) else []
    return [*slow, needs_minilm] if " demo" in line else slow


@pytest.mark.parametrize("line", [pytest.param(line, marks=marks(line)) for line in examples()])
def test_example(line, here, run, hub):
    _, command, *arguments = shlex.split(line)
    extra = [] if "my_recipe" in line else shlex.split(SMALLER.get(command, ""))
    out = re.search(r"--(?:out|output_dir|picture|html) (\S+)", line)
    try:
        if "--out packed" in line:  # the packed folder that others need stays as it is
            arguments[arguments.index("packed")] = "packed-again"
        run(command, *arguments, *extra)
        assert out is None or (here / out[1]).exists()
    finally:
        for name in ("packed-again", "onnx", "dense", "out", "demo-out"):
            shutil.rmtree(here / name, ignore_errors=True)


def test_every_command_has_an_example_and_says_its_exit_codes(run):
    for name in COMMANDS:
        page = run(name, "--help").stdout
        assert re.search(rf"^\s*hf-mpq {name} ", page, re.MULTILINE), name
        assert re.search(r"Exit codes: .*\b2 ", page), name


def test_help_names_every_command(run):
    page = run("--help").stdout
    assert all(re.search(rf"\b{name}\b", page) for name in COMMANDS) and len(COMMANDS) == 9
