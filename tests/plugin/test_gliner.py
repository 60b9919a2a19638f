"""GLiNER with a packed encoder, as the guide to taggers has it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn import PackedEmbedding
from hf_mpq.runtime import BACKENDS
from hf_mpq.runtime.native import runs_natively
from tests.docs.pages import DOCS, blocks
from tests.tiny import tiny_model

gliner = pytest.importorskip("gliner", reason="gliner is not installed: pip install --no-deps gliner")
TEXTS = ["the names of Ann are in a list", "an error is raised when the file of Bob in Oslo is gone"]
KINDS = ["person", "place"]
FAMILIES = ["bert", "deberta-v2", "modernbert"]


@pytest.fixture
def make(tokenizer, tmp_path, monkeypatch):
    """Makes a small random GLiNER around an encoder of a family, whose scores differ, in `my-gliner` here."""
    monkeypatch.chdir(tmp_path)

    def made(family):
        words = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
        tiny_model(family, "bare", max_position_embeddings=64, **words).save_pretrained("backbone")
        tokenizer.save_pretrained("backbone")
        config = gliner.GLiNERConfig(model_name="backbone", hidden_size=32, max_width=3, max_len=40)
        torch.manual_seed(0)
        model = gliner.GLiNER.from_config(config, backbone_from_pretrained=True)
        for name, value in model.model.named_parameters():
            if "bert_layer" not in name and value.dim() == 2:
                value.data.mul_(2)
        model.save_pretrained("my-gliner")
        return model

    return made


def scores(model) -> np.ndarray:
    """Logit of every span and kind, `(text, word, width, kind)`."""
    batch = model.prepare_batch(TEXTS, KINDS)
    return model.run_batch(model.collate_batch(batch["input_x"], batch["entity_types"]))[0].numpy()


def encoder_of(model):
    return model.model.token_rep_layer.bert_layer.model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_encoder_in_gliner(family, make, tmp_path):
    model = make(family)
    plain, layer = scores(model), model.model.token_rep_layer.bert_layer
    assert np.ptp(plain) > 0.5
    layer.model = hf_mpq.pack(hf_mpq.quantize(encoder_of(model), MPQConfig(bits=4)))
    found = scores(model)
    assert 1e-3 < np.abs(found - plain).max() < 0.5 * np.ptp(plain)
    layer.model.save_pretrained(tmp_path / "encoder")
    layer.model = AutoModel.from_pretrained(tmp_path / "encoder")
    assert isinstance(layer.model.get_input_embeddings(), PackedEmbedding)
    np.testing.assert_array_equal(scores(model), found)
    hf_mpq.prepare(model, "cpu-float")
    np.testing.assert_allclose(scores(model), found, atol=1e-4)
    reason = BACKENDS["cpu-native"].unavailable(layer.model)
    if reason is None:
        hf_mpq.prepare(model, "cpu-native")
        assert runs_natively(layer.model)
        np.testing.assert_allclose(scores(model), found, atol=0.05 * np.ptp(plain))


def test_the_guide(make, few_iterations):
    """Its blocks, one after the other, as a reader would; the folder that they write is all that is needed."""
    plain = scores(make("deberta-v2"))
    given = {"texts": TEXTS}
    for block in (one for one in blocks(DOCS / "guides" / "tagging.md", "python") if "gliner" in one):
        exec(compile(block.replace('"0.25x"', '"0.4x"'), "docs/guides/tagging.md", "exec"), given)
    again = given["gliner"]
    assert isinstance(encoder_of(again).get_input_embeddings(), PackedEmbedding)
    assert 0 < np.abs(scores(again) - plain).max() < 0.5 * np.ptp(plain)
    files = {file.name for file in Path("packed-gliner").iterdir()}
    assert files == {"encoder", "gliner.json", "rest.safetensors"}
