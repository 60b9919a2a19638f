"""Killed at any moment of a save, or out of disk in it, a folder holds the old model or the new one, or says no."""

import errno
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

import hf_mpq
from hf_mpq import Assignment, MPQConfig, MPQTrainer, MPQTrainingArguments
from hf_mpq.compression.vocabulary import PrunedVocabulary
from hf_mpq.core import MatrixAssignment
from hf_mpq.core.files import write_text
from hf_mpq.core.folders import together
from hf_mpq.exporters.base import EXPORTERS, unmet
from hf_mpq.format import PackedFormatError
from tests.moments import moments
from tests.plugin.models import reload
from tests.processes import start_python
from tests.tiny import outputs, tiny_model

SMALL = {"max_shard_size": "20KB"}
SAVES = {"single": ({}, {}), "shards": (SMALL, SMALL), "to shards": ({}, SMALL), "from shards": (SMALL, {})}
WEIGHTS, BITS, ACTIVATIONS = {"bits": 4}, {"bits": 3}, {"bits": 4, "activation_bits": 6}


def model_of(storage: str, turned: bool, **options):
    """One of two models whose files have the same names and sizes where their bits are the same."""
    model = tiny_model("bert")
    for parameter in model.parameters() if turned else ():
        parameter.data.neg_()
    model = hf_mpq.quantize(model, MPQConfig(groups=4, **options))
    return hf_mpq.pack(model) if storage == "packed" else model


def loaded(folder: Path):
    """What the folder's model answers, or None where it refuses as promised."""
    try:
        return outputs(reload(folder))
    except PackedFormatError:
        return None


def same(first, second) -> bool:
    return first is not None and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "storage, change, save",
    [
        ("packed", WEIGHTS, "single"),
        ("packed", BITS, "shards"),
        ("packed", ACTIVATIONS, "single"),
        ("packed", BITS, "to shards"),
        ("packed", WEIGHTS, "from shards"),
        ("trainable", WEIGHTS, "shards"),
        ("trainable", ACTIVATIONS, "single"),
    ],
)
def test_a_model_over_a_model(storage, change, save, tmp_path):
    """Other weights, other bits, or another config alone."""
    old, new = model_of(storage, False, **WEIGHTS), model_of(storage, change is not ACTIVATIONS, **change)
    first, second = SAVES[save]
    old.save_pretrained(tmp_path / "model", **first)
    (tmp_path / "model" / "notes.txt").write_text("theirs")
    with moments(tmp_path / "model", tmp_path / "copies") as states:
        new.save_pretrained(tmp_path / "model", **second)
    before, after, answers = outputs(old), outputs(new), [loaded(state) for state in states]
    assert same(answers[0], before) and same(answers[-1], after)
    assert all(one is None or same(one, before) or same(one, after) for one in answers)
    assert answers.count(None) >= 1, "the moments between are seen"
    assert (tmp_path / "model" / "notes.txt").read_text() == "theirs" and not list(tmp_path.glob("model/.*"))
    assert len({file.stat().st_mode for file in (tmp_path / "model").iterdir()}) == 1, "all can be read by the same"


def test_a_packed_model_with_its_tokenizer(tokenizer, tmp_path):
    """`MPQTrainer.save_packed` over an older one."""
    old = model_of("packed", False, **WEIGHTS)
    old.save_pretrained(tmp_path / "packed")
    args = MPQTrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to=[])
    trainer = MPQTrainer(model_of("trainable", True, **BITS), args, processing_class=tokenizer)
    with moments(tmp_path / "packed", tmp_path / "copies") as states:
        trainer.save_packed(tmp_path / "packed")
    before, answers = outputs(old), [loaded(state) for state in states]
    assert all(one is None or same(one, before) or same(one, answers[-1]) for one in answers)
    assert not same(answers[-1], before) and (tmp_path / "packed" / "tokenizer.json").exists()


def test_a_vocabulary(tokenizer, tmp_path):
    """Map and full tokenizer are of one save at every moment."""
    ids = {"pad_token_id": 0}
    (tmp_path / "model").mkdir()
    for sizes in ({7}, {7, 9}, {9, 11}):
        with moments(tmp_path / "model", tmp_path / f"copies-{max(sizes)}") as states:
            PrunedVocabulary((0, 1), max(sizes), ids, tokenizer).save(tmp_path / "model")
        found = [PrunedVocabulary.load(state) for state in states if (state / "pruned_vocabulary.json").exists()]
        assert {one.size for one in found} == sizes
        assert all(len(one.tokenizer) == len(tokenizer) for one in found)
    assert len(list((tmp_path / "model").iterdir())) == 2, "older tokenizers are gone"
    file = tmp_path / "model" / "pruned_vocabulary.json"
    content = json.loads(file.read_text())
    for damage in ({"kept": [1, 0]}, {"kept": [0, 99]}, {"size": "x"}, {"config_ids": []}, {"tokenizer": "../x"}):
        file.write_text(json.dumps({**content, **damage}))
        with pytest.raises(ValueError, match="not the map of a pruned vocabulary: copy the folder again"):
            PrunedVocabulary.load(file.parent)
    for text, words in (("{", "is damaged, it is no JSON"), ("[]", "holds a list")):
        file.write_text(text)
        with pytest.raises(ValueError, match=f"pruned_vocabulary.json {words}"):
            PrunedVocabulary.load(file.parent)


@pytest.mark.parametrize("format", list(EXPORTERS))
def test_an_export(format, tmp_path):
    """There is no config.json before everything else is there."""
    if reason := unmet(format):
        pytest.skip(reason)
    options = {"activations": "float"} if format == "openvino" else {}
    (tmp_path / "out").mkdir()
    with moments(tmp_path / "out", tmp_path / "copies") as states:
        hf_mpq.export(model_of("packed", False, **WEIGHTS), format, tmp_path / "out", **options)
    whole = {file.name for file in (tmp_path / "out").iterdir()}
    assert "config.json" in whole and len(whole) > 1 and not any(name.startswith(".") for name in whole)
    config = (tmp_path / "out" / "config.json").read_text()
    for state in (state for state in states if (state / "config.json").exists()):
        assert whole <= {file.name for file in state.iterdir()} and (state / "config.json").read_text() == config


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "anything.onnx"])
def test_an_export_replaces_no_model(name, tmp_path):
    (tmp_path / name).write_text("theirs")
    with pytest.raises(ValueError, match=rf"holds a model \({name}\).*another folder"):
        hf_mpq.export(model_of("packed", False, **WEIGHTS), "dense", tmp_path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["theirs"]


def test_an_assignment(tmp_path):
    file = tmp_path / "folder" / "assignment.json"
    file.parent.mkdir()
    for bits in (2, 3):
        with moments(file.parent, tmp_path / f"copies-{bits}") as states:
            Assignment({"a": MatrixAssignment((bits,) * 9)}).save(file)
    found = {Assignment.load(state / file.name).matrices["a"].bits[0] for state in states}
    assert found == {2, 3} and os.listdir(file.parent) == [file.name]


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    """Whatever library says so in its own way: one sentence with the name, and everything as it was."""
    full = f"{os.strerror(errno.ENOSPC)} (os error {errno.ENOSPC})"
    old = model_of("packed", False, **WEIGHTS)
    for error in (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), Exception(full)):
        old.save_pretrained(tmp_path / "model")
        before = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}

        def fail(*args, error=error, **kwargs):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr("transformers.modeling_utils.safe_save_file", fail)
            with pytest.raises(OSError, match=r"No space left on device: '.*model'") as caught:
                model_of("packed", True, **BITS).save_pretrained(tmp_path / "model")
        assert caught.value.errno == errno.ENOSPC
        assert {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()} == before


def test_names_of_errors_are_those_of_the_final_files(tmp_path):
    with pytest.raises(OSError, match=rf"{tmp_path}/new/deep/file'"), together(tmp_path / "new" / "deep") as folder:
        (folder / "file").mkdir()
        (folder / "file").write_text("")
    assert os.listdir(tmp_path) == [], "folders that were made for it are gone"
    with pytest.raises(OSError, match=rf"{tmp_path}/none/page.html'"):
        write_text(tmp_path / "none" / "page.html", "page")


def test_what_killed_processes_left_goes(tmp_path):
    """A folder whose lock is held is somebody's, and stays."""
    with together(tmp_path) as theirs:
        shutil.copytree(theirs.parent, tmp_path / ".hf_mpq-killed")
        with together(tmp_path) as folder:
            (folder / "file").touch()
        assert theirs.exists() and not (tmp_path / ".hf_mpq-killed").exists()
    assert os.listdir(tmp_path) == ["file"]


SAVING = """
import sys
from tests.contracts.test_crash_safety import BITS, WEIGHTS, model_of
models = model_of("packed", False, **WEIGHTS), model_of("packed", True, **BITS)
print("ready", flush=True)
for number in range(10_000):
    models[number % 2].save_pretrained(sys.argv[1])
"""


@pytest.mark.full
def test_killed_for_real(tmp_path):
    answers = [outputs(model_of("packed", False, **WEIGHTS)), outputs(model_of("packed", True, **BITS))]
    folder, printed = tmp_path / "model", tmp_path / "printed"
    printed.mkdir()
    for number in range(8):
        process = start_python(["-c", SAVING, folder], printed)
        while "ready" not in (printed / "stdout").read_text() if (printed / "stdout").exists() else True:
            assert process.is_alive()
            time.sleep(0.05)
        time.sleep(0.3 + 0.037 * number)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        (printed / "stdout").unlink()
        found = loaded(folder)
        assert found is None or any(same(found, one) for one in answers)
    model_of("packed", False, **WEIGHTS).save_pretrained(folder)
    assert same(loaded(folder), answers[0]) and not list(folder.glob(".*"))
