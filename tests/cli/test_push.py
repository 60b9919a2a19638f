"""`hf-mpq push`: what goes up, and what stops it."""

import json
import shutil

import pytest

from tests.plugin.models import read_tensors, write_tensors


def test_offline(here, refused):
    """Tests run with HF_HUB_OFFLINE."""
    assert "while HF_HUB_OFFLINE is set: unset it" in refused("push", "packed", "me/small-bert", "--token", "hf_x")


def test_without_a_token(here, refused, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(here / "no-token"))
    assert "needs a token that may write: run `hf auth login`" in refused("push", "packed", "me/small-bert")


def test_damaged_folders_stay_here(here, tmp_path, refused):
    folder = shutil.copytree("packed", tmp_path / "packed")
    tensors = read_tensors(folder)
    tensors["bert.encoder.layer.0.attention.self.query.codes"][0] ^= 1
    write_tensors(folder, tensors)
    assert "tensors differ" in refused("push", folder, "me/small-bert", "--token", "hf_x")
    assert "holds a float model" in refused("push", "my-fine-tuned-bert", "me/small-bert")


def test_scores_that_are_no_numbers(here, tmp_path, refused):
    """What verify prints about a model that gives NaN."""
    (tmp_path / "verified.json").write_text('{"metrics": {"accuracy": null}, "float_metrics": {"accuracy": 1.0}}')
    line = refused("push", "packed", "me/small-bert", "--token", "hf_x", "--verified", tmp_path / "verified.json")
    assert "push a model that `hf-mpq verify` passes" in line


@pytest.mark.parametrize("content", ["", "[]", json.dumps({"passed": True})])
def test_other_files_than_those_of_verify(content, here, tmp_path, refused):
    (tmp_path / "verified.json").write_text(content)
    line = refused("push", "packed", "me/small-bert", "--token", "hf_x", "--verified", tmp_path / "verified.json")
    assert "is not what `hf-mpq verify --json` prints" in line
