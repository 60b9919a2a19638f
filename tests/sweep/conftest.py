"""A float model and a task that take a second to train on."""

from importlib.util import find_spec

import pytest
from datasets import Dataset

from hf_mpq.sweep import Plan
from tests.tiny import tiny_model

needs_optuna = pytest.mark.skipif(find_spec("optuna") is None, reason="pip install 'hf_mpq[sweep]'")
ROWS = 16


@pytest.fixture(scope="session")
def place(made_once, tokenizer):
    """Folder of a tiny classifier with its tokenizer, `model`, and of a few sentences for two tasks, `data`."""

    def make(folder):
        model = tiny_model("bert", num_hidden_layers=1, vocab_size=len(tokenizer), pad_token_id=0)
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        for name, column in (("sst2", "sentence"), ("cola", "sentence")):
            rows = [{column: f"the call {k % 5} returns {k % 3} values", "label": k % 2} for k in range(ROWS)]
            for split in ("train", "validation"):
                Dataset.from_list(rows).to_json(folder / "data" / name / f"{split}.jsonl")

    return made_once("sweep", make)


@pytest.fixture
def plan(place):
    """Makes plans of short runs; what is given wins."""

    def make(**given) -> Plan:
        space = {
            "method": "uniform",
            "groups": 4,
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "selection_examples": 8,
            "calibration_examples": 8,
            "bf16": False,
            **given.pop("space", {}),
        }
        usual = {"data_dir": str(place / "data"), "max_length": 16, "objectives": ("score", "megabytes")}
        return Plan(**{"model": str(place / "model"), "tasks": ("sst2",), **usual, **given}, space=space)

    return make
