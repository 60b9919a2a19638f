"""Zero-shot classification: an NLI model asks of each label whether the text entails it."""

import numpy as np
import pytest
from transformers import pipeline

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn import PackedLinear
from hf_mpq.runtime import BACKENDS
from tests.tiny import tiny_model

TEXTS = ["returns a list of names", "raises an error when the file is gone", "a"]
LABELS = ["list", "error", "file name"]
NLI = {0: "entailment", 1: "neutral", 2: "contradiction"}
FAMILIES = ["bert", "deberta-v2", "modernbert"]


def nli(family: str, tokenizer, folder, **changes):
    """A folder with a model whose answers differ much from label to label."""
    words = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    model = tiny_model(family, **words, id2label=NLI, label2id={name: number for number, name in NLI.items()})
    model.classifier.weight.data.mul_(5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def answers(classify, **options) -> np.ndarray:
    """Score of each label, `(texts, labels)`, whatever the order that they are given in."""
    found = classify(TEXTS, LABELS, **options)
    return np.array([[dict(zip(one["labels"], one["scores"]))[label] for label in LABELS] for one in found])


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_and_prepared_models_answer_as_the_float_one(family, tokenizer, tmp_path):
    """With one label for a text or any number, one at a time and in batches."""
    ways = ({}, {"multi_label": True}, {"hypothesis_template": "it {}", "batch_size": 4})
    classify = pipeline("zero-shot-classification", nli(family, tokenizer, tmp_path / "float"), device="cpu")
    plain = [answers(classify, **way) for way in ways]
    assert np.ptp(plain[0], axis=1).min() > 0.01 and np.ptp(plain[1]) > 0.1
    np.testing.assert_allclose(plain[0].sum(1), 1, atol=1e-5)
    hf_mpq.pack(hf_mpq.quantize(classify.model, MPQConfig(bits=8))).save_pretrained(tmp_path / "packed")
    tokenizer.save_pretrained(tmp_path / "packed")
    classify = pipeline("zero-shot-classification", str(tmp_path / "packed"), device="cpu")
    assert any(isinstance(layer, PackedLinear) for layer in classify.model.modules()) and classify.entailment_id == 0
    packed = [answers(classify, **way) for way in ways]
    backends = [name for name in ("cpu-float", "cpu-native") if not BACKENDS[name].unavailable(classify.model)]
    for backend in backends:
        hf_mpq.prepare(classify.model, backend)
        for one, expected, floats in zip((answers(classify, **way) for way in ways), packed, plain, strict=True):
            np.testing.assert_allclose(one, expected, atol=0.03 if backend == "cpu-native" else 1e-4)
            np.testing.assert_allclose(one, floats, atol=0.08)
            assert (one != floats).any()
