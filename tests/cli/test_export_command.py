"""`hf-mpq export`: files that load without hf_mpq."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
from datasets import Dataset

from hf_mpq.exporters.base import unmet
from tests.cli.conftest import sentence

LOAD = """
import sys
from transformers import pipeline
assert "hf_mpq" not in sys.modules
print(pipeline("text-classification", sys.argv[1], device="cpu")(sys.argv[2])[0]["label"])
"""


@pytest.mark.full
def test_dense_files_answer_without_hf_mpq(here, tmp_path, run_json):
    found = run_json("export", "packed", "dense", "--out", tmp_path / "dense")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(found["files"])
    text, label = sentence(5)
    done = subprocess.run([sys.executable, "-c", LOAD, tmp_path / "dense", text], capture_output=True, text=True)
    assert done.stdout.strip() == ("negative", "positive")[label], done.stderr


def test_labels_are_not_read(here, tmp_path, run_json):
    Dataset.from_dict({"text": ["a list", "of names"], "label": ["sports", "arts"]}).to_json(tmp_path / "rows.jsonl")
    run_json("export", "packed", "dense", "--data", tmp_path / "rows.jsonl", "--out", tmp_path / "dense")


@pytest.mark.skipif(find_spec("onnxruntime") is None or unmet("onnx") is not None, reason=f"onnx: {unmet('onnx')}")
def test_onnx_with_fixed_ranges(here, tmp_path, run_json):
    import numpy as np
    import onnxruntime

    from hf_mpq.cli.models import load_tokenizer

    run_json("export", "packed", "onnx", "--data", "rows.csv", "--examples", "16", "--out", tmp_path / "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    rows = [sentence(number) for number in range(20)]
    inputs = load_tokenizer(tmp_path / "onnx")([text for text, _ in rows], padding=True, return_tensors="np")
    wanted = {one.name for one in session.get_inputs()}
    logits = session.run(None, {name: value.astype(np.int64) for name, value in inputs.items() if name in wanted})[0]
    assert (logits.argmax(1) == [label for _, label in rows]).mean() >= 0.9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("coreml",),
            "unknown export format 'coreml'; the known ones are: compressed-tensors, ctranslate2, dense, executorch, ",
        ),
        (
            ("dense", "--activations", "int4"),
            "unknown activations 'int4'; the known ones are: dynamic, float, static, tr",
        ),
    ],
)
def test_mistakes(arguments, words, here, tmp_path, refused):
    assert words in refused("export", "packed", *arguments, "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_no_float_models(here, tmp_path, refused):
    assert "holds a float model" in refused("export", "my-fine-tuned-bert", "onnx", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("openvino",), "give --data, a task or a file of texts, or --activations float"),
        (
            ("onnx", "--activations", "static"),
            "give --data, a task or a file of texts, or leave activations out, which keeps the ranges of training",
        ),
    ],
)
def test_what_ranges_come_from_is_said_in_options(arguments, words, here, tmp_path, refused):
    if unmet(arguments[0]) is not None:
        pytest.skip(unmet(arguments[0]))
    assert refused("export", "packed", *arguments, "--out", tmp_path / "new").endswith(words)
    assert not (tmp_path / "new").exists()
