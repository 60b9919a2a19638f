"""The README's code does what it says, on a tiny model in place of the reader's."""

import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModel, AutoModelForSequenceClassification

import hf_mpq
from hf_mpq.exporters.base import unmet
from tests.tiny import tiny_model
from tests.training.runs import collate, sentences

pytestmark = pytest.mark.usefixtures("few_iterations")
README = Path(__file__).resolve().parents[2] / "README.md"
ELSEWHERE = {"pipeline(": "plugin/test_users.py", "push_to_hub": "hub/test_hub.py"}
"""Blocks that need a tokenizer, or a server, and the tests that run them."""
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.fixture
def names(tmp_path, monkeypatch, tokenizer) -> dict:
    """What the blocks take as given: fine-tuned models in folders, float and packed, a float model, rows, scores."""
    monkeypatch.chdir(tmp_path)
    model = tiny_model("bert")
    model.save_pretrained("my-fine-tuned-bert")
    hf_mpq.pack(hf_mpq.quantize(tiny_model("bert"), hf_mpq.MPQConfig(bits=4))).save_pretrained("my-packed-bert")
    nested = hf_mpq.MPQConfig(bits=(2, 4, 8), nested=True, switchable_norms=True)
    hf_mpq.pack(hf_mpq.quantize(tiny_model("bert"), nested)).save_pretrained("my-nested-bert")
    space = hf_mpq.MPQConfig(bits=(2, 3, 4, 8)).resolve(model)
    scores = {name: torch.rand(spec.layout.count, len(spec.candidates)) for name, spec in space.weights.items()}
    rows = Dataset.from_dict({"input_ids": [[3, 4, 5], [6, 7, 8, 9]]})
    texts = ["a b c", "d e"]  # letters are pieces that the tiny model has, too
    corpus = ["returns the list", "raises an error"]
    encoder = tiny_model("bert", "bare", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    for part in (encoder, tokenizer):
        part.save_pretrained("my-embedder")
    packed = AutoModelForSequenceClassification.from_pretrained("my-packed-bert")
    accuracy = lambda one: 1.0  # noqa: E731
    given = {
        "AutoModelForSequenceClassification": AutoModelForSequenceClassification,
        "train": sentences(32),
        "dev": sentences(8),
        "collator": collate,
        "AutoModel": AutoModel,
        "encoder": encoder,
        "tokenizer": tokenizer,
        "corpus": corpus,
        "texts": texts,
        "packed": packed,
    }
    return {"hf_mpq": hf_mpq, "model": model, "scores": scores, "tokenized_rows": rows, "accuracy": accuracy, **given}


HERE = [number for number, block in enumerate(BLOCKS) if not any(word in block for word in ELSEWHERE)]
SMALL = {
    '"60MB"': '"45kB"',
    '"0.125x"': '"0.5x"',
    '"0.2x"': '"0.3x"',
    '"20%"': '"30%"',
    '"0.15x"': '"0.29x"',
    '"2.5bits"': '"3bits"',
    "num_train_epochs=3": "num_train_epochs=1, use_cpu=True",
}
"""Budgets that a tiny model can have, and a short training."""
AFTER = {1: (0,)}
"""Blocks that a reader runs with what others left behind."""


@pytest.mark.parametrize("number", HERE)
def test_block(number, names):
    block = "".join(BLOCKS[one] for one in (*AFTER.get(number, ()), number))
    if "hf_mpq.export" in block and unmet("onnx"):
        pytest.skip(unmet("onnx"))
    for given, small in SMALL.items():
        block = block.replace(given, small)
    exec(compile(block, f"README block {number}", "exec"), names)
    for folder in re.findall(r'save_pretrained\("([^"]+)"\)', block):
        assert (Path(folder) / "model.safetensors").exists()
    if "hf_mpq.export" in block:
        assert Path("bert-onnx/model.onnx").exists()
    if "save_packed" in block:
        assert (Path("out/packed") / "model.safetensors").exists()


def test_there_are_blocks():
    assert len(BLOCKS) >= 10
    for word, file in ELSEWHERE.items():
        assert sum(word in block for block in BLOCKS) == 1
        assert any(word in (README.parent / "tests" / name).read_text() for name in (file, "hub/hub_client.py"))
