"""Every example of every `--help`, of the README and of the guide to the command line is run as it stands, in a folder
that has what it names."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_mpq.cli.main import app
from hf_mpq.exporters.base import unmet
from tests.cli.conftest import needs_minilm
from tests.hub.hub_client import run_online
from tests.hub.hub_server import TOKEN, USER, HubServer

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "docs" / "guides" / "command-line.md")
COMMANDS = [command.name for command in app.registered_commands]
SMALLER = {
    "compress": "--data-dir data --examples 16 --rounding nearest",
    "verify": "--data-dir data",
    "export": "--data-dir data --examples 16",
    "bench": "--rounds 2 --no-loading --shapes 1x16 --backend reference",
    "doctor": "--quick",
    "leaderboard": "--table",
    "demo": "--rows 48 --epochs 0.1",
    "sweep": "--data-dir data --epochs 1 --train-rows 16 --eval-rows 8 --max-length 32",
    "train": "--per_device_train_batch_size 8 --num_train_epochs 2 --max_length 32 --calibration_examples 8 "
    "--selection_examples 8 --use_cpu --disable_tqdm true --data_dir data",
}
"""Options after the example's own that make it short, and take the data from here."""
SLOW = (
    "hf-mpq train run_glue",
    "hf-mpq demo",
    "hf-mpq push packed me/small-bert --private",
    "hf-mpq sweep --out grid --model",
    "hf-mpq sweep --out open",
)


def examples() -> list[str]:
    """The lines that begin with the command's name, as the sources of `--help` and the pages have them, without
    comments; and what follows `&&`."""
    texts = [command.callback.__doc__ for command in app.registered_commands] + [page.read_text() for page in PAGES]
    found = [line.strip() for text in texts for line in text.splitlines() if line.strip().startswith("hf-mpq ")]
    parts = [part.strip() for line in found for part in re.sub(r" +# .*| > \S+$", "", line).split(" && ")]
    return list(dict.fromkeys(parts))


def marks(line: str) -> list:
    slow = [pytest.mark.full] if line.startswith(SLOW) else []
    return [*slow, needs_minilm] if " demo" in line else slow


def lines(*, push: bool) -> list:
    return [pytest.param(line, marks=marks(line), id=line) for line in examples() if (" push " in line) == push]


@pytest.mark.parametrize("line", lines(push=False))
def test_example(line, here, run):
    _, command, *arguments = shlex.split(line)
    if command == "export" and (lacking := unmet(arguments[1])):
        pytest.skip(lacking)
    extra = [] if "my_recipe" in line else shlex.split(SMALLER.get(command, ""))
    listed = {"--table", "--missing"} & {*arguments}
    if command == "sweep":
        pytest.importorskip("optuna", reason="pip install 'hf_mpq[sweep]'")
        extra = [] if listed else [*extra, *(["--trials", "2"] if "--trials" in arguments else [])]
    if listed:  # of a sweep that is there
        run("sweep", "--out", "grid", "--model", "my-fine-tuned-bert", "--task", "sst2", "--missing", code=1)
    out = re.search(r"--(?:out|output_dir|picture|html) (\S+)", line.replace("--out packed", "--out packed-again"))
    try:
        if "--out packed" in line:  # the packed folder that others need stays as it is
            arguments[arguments.index("packed")] = "packed-again"
        run(command, *arguments, *extra, code=1 if "--missing" in listed else 0)
        assert out is None or (here / out[1]).exists()
    finally:
        for name in (
            "packed-again",
            "onnx",
            "dense",
            "out",
            "demo-out",
            "nested-4bit",
            "nested-mixed",
            "nested-3bit",
            "grid",
            "open",
        ):
            shutil.rmtree(here / name, ignore_errors=True)


@pytest.mark.parametrize("line", lines(push=True))
def test_example_of_push(line, here, run_json, tmp_path):
    """To a Hub that is a server on this machine, from a process that was started on line."""
    shutil.copytree("packed", tmp_path / "packed")
    found = run_json("verify", "packed", "--teacher", "my-fine-tuned-bert", "--data", "rows.csv")
    (tmp_path / "verified.json").write_text(json.dumps(found))
    places = {name: str(tmp_path / name) for name in ("packed", "verified.json")}
    words = [places.get(word, word).replace("me/", f"{USER}/") for word in shlex.split(line)[1:]]
    with HubServer() as server:
        done = run_online(["hf_mpq.cli.main", *words], tmp_path / "home", server.address, TOKEN)
        assert done.returncode == 0, done.stderr
        files = server.repositories[f"{USER}/small-bert"].files()
    assert done.stdout.startswith(f"{server.address}/{USER}/small-bert")
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    if "--verified" in line:
        card = ModelCard(files["README.md"].decode()).data
        assert card.license == "apache-2.0" and card.base_model == "bert-base-uncased"
        assert "| accuracy | 1.0000 |" in files["README.md"].decode()


def test_every_command_has_an_example_and_says_its_exit_codes(run):
    for name in COMMANDS:
        page = run(name, "--help").stdout
        assert re.search(rf"^\s*hf-mpq {name} ", page, re.MULTILINE), name
        assert re.search(r"Exit codes: .*\b2 ", page), name


def test_help_names_every_command(run):
    page = run("--help").stdout
    assert all(re.search(rf"\b{name}\b", page) for name in COMMANDS) and len(COMMANDS) == 12
