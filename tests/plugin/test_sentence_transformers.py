"""Packed and trainable models inside SentenceTransformer and CrossEncoder."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    CrossEncoder,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
from transformers import AutoModel

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn import MPQLinear, PackedEmbedding
from hf_mpq.nn.walk import matrices
from hf_mpq.runtime import BACKENDS
from hf_mpq.training import UpdateQuantizers
from tests.plugin.models import mixed_assignment, read_tensors
from tests.tiny import tiny_model

TEXTS = ["returns a list of names", "raises an error", "the value is known", "a", "open the file and read every line"]
PAIRS = list(zip(TEXTS, TEXTS[::-1]))
FAMILIES = ["bert", "deberta-v2", "modernbert"]
CPU = [name for name in BACKENDS if name == "reference" or name.startswith("cpu")]


@pytest.fixture
def folder(tokenizer, tmp_path):
    """Writes a model with the tokenizer into a folder."""

    def write(model, name="start"):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return write


def sizes(tokenizer):
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def packed(family, head, tokenizer):
    """With every precision in it, and pruned rows."""
    model = tiny_model(family, head, **sizes(tokenizer), **({"num_labels": 1} if head == "sequence" else {}))
    config = MPQConfig(groups=10)
    config.assignment = mixed_assignment(model, config).to_dict()
    return hf_mpq.pack(hf_mpq.quantize(model, config))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_embedder_is_saved_and_loaded(family, folder, tokenizer, tmp_path):
    embedder = SentenceTransformer(folder(packed(family, "bare", tokenizer)), device="cpu")
    found = embedder.encode(TEXTS)
    assert found.shape == (5, 32) and np.abs(found[0] - found[1]).max() > 0.01
    embedder.save_pretrained(str(tmp_path / "saved"))
    before, after = read_tensors(tmp_path / "start"), read_tensors(tmp_path / "saved")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert isinstance(again[0].auto_model.get_input_embeddings(), PackedEmbedding)
    np.testing.assert_array_equal(again.encode(TEXTS), found)
    hf_mpq.prepare(again[0].auto_model, "cpu-float")
    np.testing.assert_allclose(again.encode(TEXTS), found, atol=1e-5)
    again.save_pretrained(str(tmp_path / "prepared"))
    assert read_tensors(tmp_path / "prepared").keys() == before.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_cross_encoder_is_saved_and_loaded(family, folder, tokenizer, tmp_path):
    ranker = CrossEncoder(folder(packed(family, "sequence", tokenizer)), device="cpu")
    found = ranker.predict(PAIRS)
    assert found.shape == (5,) and np.ptp(found) > 1e-4
    ranker.save_pretrained(str(tmp_path / "saved"))
    again = CrossEncoder(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_array_equal(again.predict(PAIRS), found)
    hf_mpq.prepare(again.model, "cpu-float")
    np.testing.assert_allclose(again.predict(PAIRS), found, atol=1e-5)


@pytest.mark.parametrize("kind", ["embedder", "ranker"])
@pytest.mark.parametrize("backend", ["auto", *CPU])
def test_what_holds_a_packed_model_is_prepared_by_it(kind, backend, folder, tokenizer):
    maker, head = (SentenceTransformer, "bare") if kind == "embedder" else (CrossEncoder, "sequence")
    holder, alone = (maker(folder(packed("bert", head, tokenizer)), device="cpu") for _ in range(2))
    inside = [one[0].auto_model if kind == "embedder" else one.model for one in (holder, alone)]
    if backend != "auto" and BACKENDS[backend].unavailable(inside[0]):
        pytest.skip(BACKENDS[backend].unavailable(inside[0]))
    assert hf_mpq.prepare(holder, backend) is holder
    hf_mpq.prepare(inside[1], backend)
    assert [type(one) for one in inside[0].modules()] == [type(one) for one in inside[1].modules()]
    ask = (lambda one: one.encode(TEXTS)) if kind == "embedder" else (lambda one: one.predict(PAIRS))
    np.testing.assert_allclose(ask(holder), ask(alone), atol=1e-5)


@pytest.mark.parametrize("kind", ["embedder", "ranker"])
def test_quantized_while_it_loads(kind, folder, tokenizer, tmp_path):
    """`model_kwargs={"quantization_config": ...}` gives a trainable model, which is saved and loaded as such."""
    head = "bare" if kind == "embedder" else "sequence"
    labels = {} if kind == "embedder" else {"num_labels": 1}
    start = folder(tiny_model("bert", head, **sizes(tokenizer), **labels))
    build = SentenceTransformer if kind == "embedder" else CrossEncoder
    run = (lambda one: one.encode(TEXTS)) if kind == "embedder" else (lambda one: one.predict(PAIRS))
    plain = run(build(start, device="cpu"))
    model = build(start, device="cpu", model_kwargs={"quantization_config": MPQConfig(bits=3, groups=10)})
    found = run(model)
    assert list(matrices(model, MPQLinear)) and np.abs(found - plain).max() > 1e-3
    model.save_pretrained(str(tmp_path / "saved"))
    np.testing.assert_array_equal(run(build(str(tmp_path / "saved"), device="cpu")), found)


def arguments(kind, tmp_path, **options):
    return kind(
        str(tmp_path / "run"),
        max_steps=4,
        per_device_train_batch_size=2,
        learning_rate=0.01,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        **options,
    )


def test_an_embedder_is_trained_packed_and_shipped(folder, tokenizer, tmp_path):
    """The trainer of sentence-transformers around a quantized module: ranges are learned through the callback, and what
    was trained is what is packed."""
    start = folder(tiny_model("bert", "bare", **sizes(tokenizer)))
    config = MPQConfig(bits=3, groups=10, quantizer="lsq", activation="static")
    embedder = SentenceTransformer(start, device="cpu", model_kwargs={"quantization_config": config})
    inside, rows = (
        embedder[0].auto_model,
        Dataset.from_dict({"sentence1": TEXTS, "sentence2": TEXTS[::-1], "score": [0.1, 0.5, 1.0, 0.5, 0.1]}),
    )
    steps = {name: value.clone() for name, value in inside.named_parameters() if name.endswith("quantizer.step")}
    trainer = SentenceTransformerTrainer(
        embedder,
        arguments(SentenceTransformerTrainingArguments, tmp_path),
        train_dataset=rows,
        loss=CosineSimilarityLoss(embedder),
        callbacks=[UpdateQuantizers()],
    )
    trainer.train()
    moved = dict(inside.named_parameters())
    assert sum(not torch.equal(moved[name], value) for name, value in steps.items()) > 10
    trained = embedder.encode(TEXTS)
    hf_mpq.pack(inside)
    np.testing.assert_allclose(embedder.encode(TEXTS), trained, atol=1e-5)
    embedder.save_pretrained(str(tmp_path / "packed"))
    np.testing.assert_allclose(
        SentenceTransformer(str(tmp_path / "packed"), device="cpu").encode(TEXTS), trained, atol=1e-5
    )


def test_a_cross_encoder_is_trained_and_packed(folder, tokenizer, tmp_path):
    start = folder(tiny_model("bert", "sequence", num_labels=1, **sizes(tokenizer)))
    config = MPQConfig(bits=4, groups=10, quantizer="lsq")
    ranker = CrossEncoder(start, device="cpu", model_kwargs={"quantization_config": config})
    rows = Dataset.from_dict({"query": TEXTS, "answer": TEXTS[::-1], "label": [0.0, 1.0, 1.0, 0.0, 1.0]})
    before = ranker.predict(PAIRS)
    CrossEncoderTrainer(
        ranker,
        arguments(CrossEncoderTrainingArguments, tmp_path),
        train_dataset=rows,
        loss=BinaryCrossEntropyLoss(ranker),
        callbacks=[UpdateQuantizers()],
    ).train()
    trained = ranker.predict(PAIRS)
    assert np.abs(trained - before).max() > 1e-3
    hf_mpq.pack(ranker.model)
    np.testing.assert_allclose(ranker.predict(PAIRS), trained, atol=1e-5)


def test_an_embedder_is_compressed_by_its_embeddings(folder, tokenizer, tmp_path):
    start = folder(tiny_model("bert", "bare", **sizes(tokenizer)))
    rows = [tokenizer(text) for text in TEXTS * 4]
    small = hf_mpq.compress(AutoModel.from_pretrained(start), "0.15x", rows, pooling="mean", rounding="nearest")
    shipped = SentenceTransformer(folder(hf_mpq.pack(small), "packed"), device="cpu").encode(TEXTS)
    plain = SentenceTransformer(start, device="cpu").encode(TEXTS)
    cosines = (shipped * plain).sum(1) / np.linalg.norm(shipped, axis=1) / np.linalg.norm(plain, axis=1)
    assert cosines.min() > 0.8 and cosines.max() < 0.99999
