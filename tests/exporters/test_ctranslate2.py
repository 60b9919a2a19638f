"""Folders of CTranslate2, run by it."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from torch.testing import assert_close

import hf_mpq
from hf_mpq.exporters.base import unmet
from tests.tiny import tiny_batch, tiny_model

if unmet("ctranslate2"):
    pytest.skip(unmet("ctranslate2"), allow_module_level=True)
import ctranslate2


def packed(family, head, **fields):
    model = tiny_model(family, head, **({} if head == "bare" else {"num_labels": 3}))
    return hf_mpq.pack(hf_mpq.quantize(model, hf_mpq.MPQConfig(**{"bits": 4, **fields}))).eval()


EXACT = torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported()
"""Without such instructions CTranslate2 adds pairs of 8-bit products in 16 bits, and clips sums that do not fit."""


def answers(folder, batch, types, compute="default"):
    """Hidden states, and what the pooler gives."""
    encoder = ctranslate2.Encoder(str(folder), device="cpu", intra_threads=1, compute_type=compute)
    lengths = batch["attention_mask"].sum(1).tolist()
    ids = [row[:length] for row, length in zip(batch["input_ids"].tolist(), lengths)]
    kinds = {"token_type_ids": [[0] * length for length in lengths]} if types else {}
    output = encoder.forward_batch(ids, **kinds)
    pooled = output.pooler_output
    return [None if one is None else torch.from_numpy(np.array(one)) for one in (output.last_hidden_state, pooled)]


@pytest.mark.parametrize(
    "family, head, fields",
    [
        ("bert", "bare", {}),
        ("bert", "sequence", {"bits": 8}),
        ("bert", "sequence", {"quantizer": "minmax", "bits": 8}),
        ("roberta", "sequence", {}),
        ("distilbert", "sequence", {}),
    ],
    ids=str,
)
def test_it_answers_as_the_model(family, head, fields, tmp_path):
    model, batch = packed(family, head, **fields), tiny_batch()
    folder = hf_mpq.export(model, "ctranslate2", tmp_path)
    compute = "default" if EXACT or fields.get("bits") != 8 else "float32"
    hidden, pooled = answers(folder, batch, family != "distilbert", compute)
    with torch.no_grad():
        output = model(**batch, output_hidden_states=True)
    real = batch["attention_mask"].bool()
    want = output.hidden_states[-1][real]
    assert torch.cosine_similarity(hidden[real], want).min() > 0.995
    assert torch.cosine_similarity(hidden[real], want).mean() > 0.999
    if head == "sequence":
        last = load_file(folder / "classifier.safetensors")
        logits = F.linear(pooled, last["weight"], last["bias"])
        assert_close(logits, output.logits, rtol=0, atol=0.05 * float(output.logits.abs().max()))


def test_a_matrix_has_one_byte_for_a_weight(tmp_path):
    model = packed("bert", "bare")
    folder = hf_mpq.export(model, "ctranslate2", tmp_path)
    weights = sum(parameter.numel() for parameter in tiny_model("bert", "bare").parameters() if parameter.dim() == 2)
    assert weights < (folder / "model.bin").stat().st_size < 1.9 * weights


@pytest.mark.parametrize(
    "family, head, words",
    [
        ("modernbert", "sequence", "ctranslate2 is written for bert, .*this is 'modernbert': export it as 'onnx'"),
        ("bert", "question", "no head for BertForQuestionAnswering.*its encoder alone"),
    ],
)
def test_what_is_not_there_is_refused(family, head, words, tmp_path):
    model = hf_mpq.pack(hf_mpq.quantize(tiny_model(family, head), hf_mpq.MPQConfig(bits=4)))
    with pytest.raises(ValueError, match=words):
        hf_mpq.export(model, "ctranslate2", tmp_path / "out")
    assert not (tmp_path / "out").exists()
