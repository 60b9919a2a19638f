"""Packed encoders inside MultiVectorEncoder, whose scores are between tokens."""

import numpy as np
import pytest
import sentence_transformers
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn import PackedEmbedding
from hf_mpq.runtime import BACKENDS
from hf_mpq.tasks import ranking_scores
from hf_mpq.training import UpdateQuantizers
from tests.plugin.models import mixed_assignment, read_tensors
from tests.tiny import tiny_model

if not hasattr(sentence_transformers, "MultiVectorEncoder"):
    pytest.skip("late interaction came with sentence-transformers 6", allow_module_level=True)

MultiVectorEncoder = sentence_transformers.MultiVectorEncoder
QUERIES = ["returns a list of names", "raises an error"]
DOCUMENTS = ["a", "the names are in a list", "an error is raised when the file is gone", "open the file and read it"]


@pytest.fixture
def folder(tokenizer, tmp_path):
    """Writes a late-interaction encoder of a family: the encoder, a dense layer to 128 features, unit length."""

    def write(family="bert"):
        words = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
        tiny_model(family, "bare", **words).save_pretrained(tmp_path / "encoder")
        tokenizer.save_pretrained(tmp_path / "encoder")
        torch.manual_seed(0)
        MultiVectorEncoder(str(tmp_path / "encoder"), device="cpu").save_pretrained(str(tmp_path / "float"))
        return tmp_path / "float"

    return write


def scores(encoder) -> np.ndarray:
    return encoder.similarity(encoder.encode_query(QUERIES), encoder.encode_document(DOCUMENTS)).numpy()


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_packed_inside_saved_loaded_and_served(family, folder, tmp_path):
    encoder = MultiVectorEncoder(str(folder(family)), device="cpu")
    assert [type(part).__name__ for part in encoder] == ["Transformer", "Dense", "MultiVectorMask", "Normalize"]
    vectors = encoder.encode_query(QUERIES)
    assert {one.shape[1] for one in vectors} == {128} and len(vectors[0]) != len(vectors[1])
    plain, config = scores(encoder), MPQConfig(groups=10)
    config.assignment = mixed_assignment(encoder[0].model, config).to_dict()
    encoder[0].model = hf_mpq.pack(hf_mpq.quantize(encoder[0].model, config))
    found = scores(encoder)
    assert np.abs(found - plain).max() > 1e-3
    encoder.save_pretrained(str(tmp_path / "packed"))
    again = MultiVectorEncoder(str(tmp_path / "packed"), device="cpu")
    assert isinstance(again[0].model.get_input_embeddings(), PackedEmbedding)
    np.testing.assert_array_equal(scores(again), found)
    hf_mpq.prepare(again, "cpu-float")
    np.testing.assert_allclose(scores(again), found, atol=1e-4)
    again.save_pretrained(str(tmp_path / "prepared"))
    assert read_tensors(tmp_path / "prepared").keys() == read_tensors(tmp_path / "packed").keys()


def test_cpu_native_gives_the_scores(folder):
    """As near to the float scores as the packed model's are."""
    encoder = MultiVectorEncoder(str(folder()), device="cpu")
    plain = scores(encoder)
    encoder[0].model = hf_mpq.pack(hf_mpq.quantize(encoder[0].model, MPQConfig(bits=8)))
    reason = BACKENDS["cpu-native"].unavailable(encoder[0].model)
    if reason:
        pytest.skip(reason)
    found = scores(encoder)
    served = scores(hf_mpq.prepare(encoder, "cpu-native"))
    assert np.abs(served - plain).max() <= 2 * np.abs(found - plain).max() and np.abs(served - plain).max() > 0
    np.testing.assert_allclose(served, plain, rtol=0.02)


def test_compressed_and_quantized_while_it_loads(folder, tmp_path):
    source = str(folder())
    encoder = MultiVectorEncoder(source, device="cpu", model_kwargs={"quantization_config": MPQConfig(bits=3)})
    found = scores(encoder)
    encoder.save_pretrained(str(tmp_path / "trainable"))
    np.testing.assert_array_equal(scores(MultiVectorEncoder(str(tmp_path / "trainable"), device="cpu")), found)
    encoder = MultiVectorEncoder(source, device="cpu")
    plain, rows = scores(encoder), [encoder.tokenizer(text) for text in (QUERIES + DOCUMENTS) * 4]
    encoder[0].model = hf_mpq.pack(hf_mpq.compress(encoder[0].model, "0.2x", rows, rounding="nearest"))
    assert 0 < np.abs(scores(encoder) - plain).max() < 0.3 * np.abs(plain).max()


def test_passages_are_ranked_by_maxsim(folder, tokenizer):
    """A passage that holds all words of the query, in any order, is above those that do not."""
    encoder = MultiVectorEncoder(str(folder()), device="cpu")
    order = scores(encoder).argsort(1)[:, ::-1]
    pairs = [(query, document) for query in QUERIES for document in DOCUMENTS]
    best = [DOCUMENTS[row[0]] for row in order]
    worst = [DOCUMENTS[row[-1]] for row in order]

    def rows(relevant):
        labels = [float(document == relevant[QUERIES.index(query)]) for query, document in pairs]
        return Dataset.from_dict({"query": [q for q, _ in pairs], "passage": [d for _, d in pairs], "label": labels})

    assert ranking_scores(encoder, rows(best)) == {"ndcg@10": 1.0, "mrr@10": 1.0}
    assert ranking_scores(encoder, rows(worst))["mrr@10"] == 0.25
    embedder = SentenceTransformer(str(folder().parent / "encoder"), device="cpu")
    assert 0.25 <= ranking_scores(embedder, rows(best))["mrr@10"] <= 1
    with pytest.raises(ValueError, match="these lack label"):
        ranking_scores(encoder, rows(best).remove_columns("label"))


def test_it_is_trained_by_its_own_trainer(folder, tmp_path):
    """What was trained is what is packed."""
    from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss

    config = MPQConfig(bits=4, groups=10, quantizer="lsq")
    encoder = MultiVectorEncoder(str(folder()), device="cpu", model_kwargs={"quantization_config": config})
    before = scores(encoder)
    arguments = sentence_transformers.MultiVectorEncoderTrainingArguments(
        str(tmp_path / "run"),
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=0.01,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    sentence_transformers.MultiVectorEncoderTrainer(
        encoder,
        arguments,
        train_dataset=Dataset.from_dict({"query": QUERIES, "passage": [DOCUMENTS[1], DOCUMENTS[2]]}),
        loss=MultiVectorMultipleNegativesRankingLoss(encoder),
        callbacks=[UpdateQuantizers()],
    ).train()
    trained = scores(encoder)
    assert np.abs(trained - before).max() > 1e-3
    hf_mpq.pack(encoder[0].model)
    np.testing.assert_allclose(scores(encoder), trained, atol=1e-4)
