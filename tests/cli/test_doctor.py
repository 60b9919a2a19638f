"""`hf-mpq doctor` on sound folders and on damaged ones."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

import hf_mpq
from hf_mpq.format.model_folder import UNFINISHED
from hf_mpq.runtime.native import built, paths
from tests.plugin.models import read_config, read_tensors, signed_anew, stored_model, write_tensors
from tests.processes import run_python
from tests.tiny import tiny_model

CODES = "bert.encoder.layer.0.attention.self.query.codes"


@pytest.fixture
def folder(home, tmp_path):
    """A copy of the packed folder, to be damaged."""
    return shutil.copytree(home / "packed", tmp_path / "packed")


@pytest.fixture
def states(run_json):
    """Runs the doctor; check to (state, detail)."""

    def look(folder, code=0, *options):
        found = run_json("doctor", folder, *(options or ["--quick"]), code=code)
        assert found["sound"] == (code == 0)
        return {one["check"]: (one["state"], one["detail"]) for one in found["findings"]}

    return look


def test_sound(folder, states, run):
    found = states(folder)
    assert {state for state, _ in found.values()} == {"ok", "note"} and found["card"][0] == "note"
    assert found["contents"][1].endswith("digests agree") and "transformers" in found["versions"][1]
    assert "is sound" in run("doctor", folder, "--quick").stdout


@pytest.mark.parametrize(
    ("family", "rules", "said"),
    [
        ("modernbert", {}, "ModernBertModel runs whole in one call"),
        ("bert", {r".*layer\.1\.output\.dense": {"bits": None}}, "a product at a time"),
    ],
    ids=["whole", "by layers"],
)
def test_what_the_kernel_runs(family, rules, said, tmp_path, states):
    config = hf_mpq.MPQConfig(bits=4, activation_bits=8, rules=rules)
    hf_mpq.pack(hf_mpq.quantize(tiny_model(family), config)).save_pretrained(tmp_path)
    state, detail = states(tmp_path)["cpu-native"]
    if built() and paths():
        assert said in detail and state == ("note" if rules else "ok")
        assert not rules or "encoder.layer.1.output.dense" in detail
    else:
        assert state == "note"


def test_what_happens_without_the_import(folder, states, monkeypatch):
    """It is tried, not assumed: all packed tensors come out random."""
    monkeypatch.setattr("hf_mpq.cli.checkup.subprocess.run", lambda command, **options: run_python(command[1:]))
    state, detail = states(folder, 0, "--debug")["without hf_mpq"]
    names = {name.rpartition(".")[0] for name in load_file(folder / "model.safetensors") if name.endswith("codes")}
    missing = int(detail.split("makes up ")[1].split()[0])
    assert state == "note" and missing > len(names) and "say `import hf_mpq` first" in detail


def test_card(folder, states):
    (folder / "README.md").write_text("a model")
    state, detail = states(folder)["card"]
    assert state == "note" and "does not tell readers to `import hf_mpq`" in detail
    (folder / "README.md").write_text("import hf_mpq")
    assert states(folder)["card"][0] == "ok"


def test_changed_bit(folder, states):
    tensors = read_tensors(folder)
    tensors[CODES][0] ^= 1
    write_tensors(folder, tensors)
    state, detail = states(folder, 1)["contents"]
    assert state == "broken" and "1 tensors differ from what was saved" in detail


def test_truncated(folder, states, run):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert "truncated" in states(folder, 1)["contents"][1]
    assert "is broken" in run("doctor", folder, "--quick", code=1).stdout


def test_config_of_another_model(folder, states):
    config = read_config(folder)
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    assert "num_hidden_layers is 3, and was 2" in states(folder, 1)["contents"][1]


def test_newer_format(folder, states):
    config = read_config(folder)
    config["quantization_config"]["format_version"] = 99
    (folder / "config.json").write_text(json.dumps(config))
    assert "pip install -U hf_mpq" in states(folder, 1)["contents"][1]


def test_float_weights_that_became_nan(folder, states):
    """Whether or not their digest is of what they are now."""
    tensors = read_tensors(folder)
    tensors["classifier.weight"] = torch.full_like(tensors["classifier.weight"], torch.nan)
    for metadata in (None, signed_anew(folder, tensors)):
        write_tensors(folder, tensors, metadata)
        state, detail = states(folder, 1)["contents"]
        assert state == "broken" and "classifier.weight" in detail


@pytest.mark.parametrize(
    ("name", "words"), [("config.json", "no config.json"), ("model.safetensors", "model.safetensors is missing")]
)
def test_missing_files(name, words, folder, states):
    (folder / name).unlink()
    assert words in states(folder, 1)["folder"][1]


def test_missing_shard(tmp_path, states):
    stored_model("packed").save_pretrained(tmp_path, max_shard_size="5KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1 and states(tmp_path)["files"][1].count("MB") == len(shards)
    shards[-1].unlink()
    assert f"{shards[-1].name} is missing" in states(tmp_path, 1)["folder"][1]


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"weight_map": null}', '{"weight_map": {}}', '{"weight_map": {"a": 3}}']
)
def test_damaged_index(content, folder, states):
    (folder / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json is damaged" in states(folder, 1)["folder"][1]


DAMAGES = {
    "no class": ({"architectures": None}, "folder", "its `architectures` name no class"),
    "class without name": ({"architectures": [3]}, "folder", "its `architectures` name no class"),
    "origin": ({"quantization_config": {"origin": None}}, "versions", "`origin` does not hold what packed it"),
    "versions": ({"quantization_config": {"origin": {"versions": 1}}}, "versions", "`origin` does not hold"),
    "packed as a list": ({"quantization_config": {"packed": ["x"]}}, "contents", "download the folder again"),
    "packed as a word": ({"quantization_config": {"packed": "x"}}, "contents", "download the folder again"),
    "packed without tables": ({"quantization_config": {"packed": {"x": 1}}}, "contents", "download the folder again"),
    "rule": ({"quantization_config": {"rules": {"x": None}}}, "contents", "download the folder again"),
    "rules": ({"quantization_config": {"rules": None}}, "contents", "download the folder again"),
    "format": ({"quantization_config": {"format_version": "x"}}, "contents", "download the folder again"),
    "size": ({"hidden_size": "x"}, "contents", "hidden_size"),
    "words": ({"vocab_size": "x"}, "contents", "vocab_size"),
}


@pytest.mark.parametrize(("fields", "check", "words"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_configs(fields, check, words, folder, states, run):
    config = read_config(folder)
    described = {**config["quantization_config"], **fields.get("quantization_config", {})}
    (folder / "config.json").write_text(json.dumps({**config, **fields, "quantization_config": described}))
    state, detail = states(folder, 1)[check]
    assert state == "broken" and words in detail
    assert "is broken" in run("doctor", folder, "--quick", code=1).stdout


def test_hostile_words(home, tmp_path, run, run_json):
    """Markup, control characters and a folder's own name are shown as they are, and do nothing."""
    folder = shutil.copytree(home / "packed", tmp_path / "[bold]x")
    config, hostile = read_config(folder), "a\x1b[2J\x07\u202e\\[/x][link=x]b"
    config["quantization_config"]["origin"] = {"versions": {hostile: hostile}}
    (folder / "config.json").write_text(json.dumps(config))
    shown = run("doctor", folder, "--quick").stdout
    assert r"a\x1b[2J\x07\u202e\[/x][link=x]b" in "".join(shown.replace("│", "").split())
    assert f"{folder} is sound" in shown.replace("\n", "") and not set("\x1b\x07\u202e") & set(shown)
    assert hostile in str(run_json("doctor", folder, "--quick")["findings"][2]["detail"])
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [hostile]}))
    assert not set("\x1b\x07") & set(run("inspect", folder, code=2).output)


def test_an_interrupted_save(folder, states):
    config = read_config(folder)
    config["quantization_config"] = {"quant_method": "mpq", "storage": UNFINISHED}
    (folder / "config.json").write_text(json.dumps(config))
    assert "a save into this folder was interrupted" in states(folder, 1)["folder"][1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "config.json is damaged"),
        ("[]", "config.json is damaged"),
        ("{}", "says nothing of hf_mpq"),
        ('{"quantization_config": [1]}', "says nothing of hf_mpq"),
        ('{"quantization_config": {"quant_method": "mpq", "storage": "trainable"}}', "is a checkpoint for training"),
    ],
)
def test_other_configs(content, words, folder, states):
    (folder / "config.json").write_text(content)
    assert words in states(folder, 1)["folder"][1]


def test_tokenizers(folder, states):
    other = read_config(folder)
    (folder / "config.json").write_text(json.dumps({**other, "vocab_size": 100}))
    assert states(folder, 1)["tokenizer"][0] == "broken"
    (folder / "config.json").write_text(json.dumps(other))
    (folder / "tokenizer.json").write_text("{")
    assert states(folder, 1)["tokenizer"][0] == "broken"
    for file in folder.glob("token*"):
        file.unlink()
    assert states(folder)["tokenizer"][0] == "note"


def test_no_folder(tmp_path, refused):
    assert "there is no folder" in refused("doctor", tmp_path / "nowhere")
