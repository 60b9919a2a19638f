"""Models whose code lies beside them: never run unasked, and with `--trust-remote-code` like others."""

import json
import os
import sys

import pytest
import torch

from hf_mpq.cli.loading import load_and_run
from hf_mpq.cli.models import load_packed
from tests.tiny import tiny_config, tiny_model

TRUST = "--trust-remote-code"
CODE = """
import pathlib
from transformers import BertConfig, BertForSequenceClassification

pathlib.Path({marker!r}).touch()


class OwnConfig(BertConfig):
    model_type = "own-bert"


class OwnForSequenceClassification(BertForSequenceClassification):
    config_class = OwnConfig
"""
AUTO = {
    "AutoConfig": "own_bert.OwnConfig",
    "AutoModelForSequenceClassification": "own_bert.OwnForSequenceClassification",
}


@pytest.fixture
def own(tmp_path, tokenizer, monkeypatch):
    """A folder with code beside the model, and the file that the code leaves where it runs."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    read, write = os.pipe()  # whoever asks waits here for ever, or for an answer
    os.write(write, b"y\n")
    monkeypatch.setattr(sys, "stdin", os.fdopen(read))
    folder, marker = tmp_path / "own", tmp_path / "it-ran"
    tiny_model("bert", vocab_size=len(tokenizer), pad_token_id=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own-bert", "architectures": ["OwnForSequenceClassification"], "auto_map": AUTO}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own_bert.py").write_text(CODE.format(marker=str(marker)))
    yield folder, marker
    os.close(write)


def test_code_beside_a_model_runs_only_where_it_is_asked_for(own, tmp_path, run, run_json, refused):
    folder, marker = own
    (tmp_path / "rows.txt").write_text("a list\nof names\n")
    packed = ("compress", folder, "--bits", "8", "--out", tmp_path / "packed")
    line = refused(*packed)
    assert "has code of its own" in line and line.endswith("read it, and give --trust-remote-code")
    assert not marker.exists() and not (tmp_path / "packed").exists()
    run(*packed, TRUST)
    assert marker.exists() and (tmp_path / "packed" / "own_bert.py").is_file()
    marker.unlink()
    sys.modules.pop(next(name for name in sys.modules if name.endswith("own_bert")))

    compared = (
        "verify",
        tmp_path / "packed",
        "--teacher",
        folder,
        "--data",
        tmp_path / "rows.txt",
        "--min-label-loyalty",
        "0",
    )
    for command in (
        compared,
        ("inspect", tmp_path / "packed"),
        ("push", tmp_path / "packed", "me/it"),
        ("export", tmp_path / "packed", "dense", "--out", tmp_path / "dense"),
        ("bench", tmp_path / "packed", "--no-loading", "--backend", "reference"),
    ):
        assert "--trust-remote-code" in refused(*command)
    found = run_json("doctor", tmp_path / "packed", "--quick")
    assert {"check": "contents", "state": "note"}.items() <= found["findings"][3].items() and found["sound"]
    assert "not looked at" in found["findings"][3]["detail"] and not marker.exists()

    assert run_json(*compared, TRUST)["rows"] == 2
    states = {one["state"] for one in run_json("doctor", tmp_path / "packed", "--quick", TRUST)["findings"]}
    assert "broken" not in states and marker.exists()
    assert load_and_run(str(tmp_path / "packed"), True)["seconds"] > 0
    with torch.no_grad():
        logits = load_packed(tmp_path / "packed", True)(torch.tensor([[5, 6, 7]])).logits
    assert torch.isfinite(logits).all()


def test_doctor_asks_nobody_about_the_code_of_a_tokenizer(own, tmp_path, run, run_json):
    """A known class of model beside a tokenizer of one's own."""
    folder, marker = own
    config = json.loads((folder / "config.json").read_text())
    plain = {
        **config,
        **tiny_config("bert").to_dict(),
        "architectures": ["BertForSequenceClassification"],
        "vocab_size": config["vocab_size"],
        "auto_map": {},
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(plain))
    run("compress", folder, "--bits", "8", "--out", tmp_path / "packed")
    file = tmp_path / "packed" / "tokenizer_config.json"
    told = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own_bert.OwnTokenizer", None]}}
    file.write_text(json.dumps({**json.loads(file.read_text()), **told}))
    found = {one["check"]: one for one in run_json("doctor", tmp_path / "packed", "--quick")["findings"]}
    assert found["contents"]["state"] == "ok" and found["tokenizer"]["state"] != "broken" and not marker.exists()
