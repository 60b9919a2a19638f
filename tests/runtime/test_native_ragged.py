"""Lists of unequal texts: what the kernel computes is their tokens, and no padding."""

from ctypes import string_at

import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModel, AutoModelForSequenceClassification, pipeline

import hf_mpq
from hf_mpq.nn import body_of
from hf_mpq.runtime.native import NativeEncoder, runs_natively
from tests.runtime.test_int8 import packed_model
from tests.runtime.test_native_memory import REASON
from tests.tiny import VOCABULARY

TEXTS = [
    "a",
    "open the file and read every line of it, then close it and return a list of them",
    "raises an error",
    "the value is known",
    "returns a list of names",
    "an object that holds the values",
]
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory):
    """A packed encoder and a packed classifier with their tokenizer."""
    root, sizes = (
        tmp_path_factory.mktemp("ragged"),
        {"vocab_size": len(tokenizer), "num_labels": 1, "max_position_embeddings": 128},
    )
    for head in ("bare", "sequence"):
        packed_model("bert", changes={"head": head, **sizes}).save_pretrained(root / head)
        tokenizer.save_pretrained(root / head)
    return root


def rows_of(model, run):
    """What a prepared model's kernel is told of while something runs: rows of batches, and those that it computes."""
    native, found = body_of(model).native, []
    call = native._run

    def counted(handle, reference):
        request = reference._obj
        rows = request.batch * request.tokens
        found.append((rows, sum(string_at(request.mask, rows)) if request.mask else rows))
        return call(handle, reference)

    native._run = counted
    try:
        run()
    finally:
        native._run = call
    return [sum(counts) for counts in zip(*found)]


def encoded(folder):
    embedder = SentenceTransformer(str(folder / "bare"), device="cpu")
    embedder.max_seq_length = 64
    hf_mpq.prepare(embedder, "cpu-native")
    inside = next(one for one in embedder.modules() if isinstance(one, NativeEncoder))
    return inside, embedder.tokenizer, lambda: embedder.encode(TEXTS, batch_size=len(TEXTS))


def classified(folder):
    model = hf_mpq.prepare(AutoModelForSequenceClassification.from_pretrained(folder / "sequence"), "cpu-native")
    one = pipeline("text-classification", model=model, tokenizer=str(folder / "sequence"), device="cpu")
    return model, one.tokenizer, lambda: one(TEXTS, batch_size=len(TEXTS))


def embedded(folder):
    model = hf_mpq.prepare(AutoModel.from_pretrained(folder / "bare"), "cpu-native")
    one = pipeline("feature-extraction", model=model, tokenizer=str(folder / "bare"), device="cpu")
    return model, one.tokenizer, lambda: one(TEXTS, batch_size=len(TEXTS))


def reranked(folder):
    ranker = CrossEncoder(str(folder / "sequence"), device="cpu", max_length=64)
    hf_mpq.prepare(ranker, "cpu-native")
    pairs = [(text, text) for text in TEXTS]
    inside = next(one for one in ranker.modules() if isinstance(one, NativeEncoder))
    return inside, ranker.tokenizer, lambda: ranker.predict(pairs, batch_size=len(TEXTS))


@pytest.mark.parametrize("way", [encoded, classified, embedded, reranked])
def test_no_row_of_padding_is_computed(way, folders):
    model, tokenizer, run = way(folders)
    given = [(text, text) if way is reranked else (text,) for text in TEXTS]
    tokens = sum(len(tokenizer(*one)["input_ids"]) for one in given)
    rows, computed = rows_of(model, run)
    assert computed == tokens
    assert rows >= 2 * tokens  # there was as much padding as text


def test_padding_is_neither_looked_up_nor_given_memory():
    model = hf_mpq.prepare(packed_model("bert", changes={"head": "bare"}), "cpu-native")
    assert runs_natively(model)
    lengths = torch.tensor([3, 9, 1, 5])
    ids = torch.randint(3, VOCABULARY, (4, 40), generator=torch.Generator().manual_seed(0))
    found = []
    for width in (9, 40):
        mask = (torch.arange(width) < lengths.unsqueeze(1)).long()
        outside = torch.where(mask.bool(), ids[:, :width], 10**9)  # no table has so many rows
        with torch.no_grad():
            vectors = model(input_ids=outside, attention_mask=mask).last_hidden_state
        assert not vectors[mask == 0].any()
        found.append((vectors[mask == 1], model.native.plan.bytes))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
