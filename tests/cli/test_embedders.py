"""Folders of sentence-transformers through the commands: whole in, whole out."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.stats import spearmanr

import hf_mpq
from hf_mpq.cli.embedder import Embedder
from hf_mpq.cli.models import load_float, load_packed, load_tokenizer
from hf_mpq.cli.rows.data import Source, open_data
from hf_mpq.cli.saving import check_written
from hf_mpq.tasks import pair_similarities, ranking_scores
from tests.cli.conftest import sentence
from tests.plugin.models import read_tensors, write_tensors
from tests.tiny import tiny_model

sentence_transformers = pytest.importorskip("sentence_transformers")
TEXTS = [sentence(number)[0] for number in range(6)]
PROMPTS = {"query": "find: ", "document": ""}
LAYOUTS = ("together", "apart")


@pytest.fixture(scope="module")
def embedders(tmp_path_factory, tokenizer) -> dict[str, Path]:
    """A folder that makes embeddings of the first token, as newer versions write it, and as older ones did."""
    from sentence_transformers.sentence_transformer import modules

    folder = tmp_path_factory.mktemp("embedders")
    tiny_model("bert", "bare", vocab_size=len(tokenizer), pad_token_id=0).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    parts = [
        modules.Transformer(str(folder / "encoder"), max_seq_length=16),
        modules.Pooling(32, "cls"),
        modules.Dense(32, 12),
        modules.Normalize(),
    ]
    whole = sentence_transformers.SentenceTransformer(
        modules=parts, device="cpu", prompts=PROMPTS, similarity_fn_name="dot"
    )
    whole.save_pretrained(str(folder / "together"))
    older = shutil.copytree(folder / "together", folder / "apart")
    (older / "0_Transformer").mkdir()
    names = ("*token*.json", "model.safetensors", "config.json", "sentence_bert_config.json")
    for file in (file for name in names for file in older.glob(name)):
        file.rename(older / "0_Transformer" / file.name)
    listed = json.loads((older / "modules.json").read_text())
    listed[0] |= {"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}
    (older / "modules.json").write_text(json.dumps(listed))
    flags = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (older / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    return {layout: folder / layout for layout in LAYOUTS}


def embed(folder, **options) -> np.ndarray:
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(TEXTS, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_comes_out_whole(layout, embedders, tmp_path, run, run_json):
    run("compress", embedders[layout], "--bits", "8", "--out", tmp_path / "packed")
    files = [
        {str(file.relative_to(folder)) for file in folder.rglob("*")}
        for folder in (embedders[layout], tmp_path / "packed")
    ]
    assert files[0] - files[1] == {"README.md"} and files[1] - files[0] == {".hf_mpq.json"}
    small = sentence_transformers.SentenceTransformer(str(tmp_path / "packed"), device="cpu")
    assert [type(module).__name__ for module in small] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert small.prompts == PROMPTS and small.similarity_fn_name == "dot" and small.max_seq_length == 16
    assert isinstance(small[0].auto_model.get_input_embeddings(), hf_mpq.nn.PackedEmbedding)
    expected = sentence_transformers.SentenceTransformer(str(embedders[layout]), device="cpu")
    hf_mpq.pack(hf_mpq.quantize(expected[0].auto_model, hf_mpq.MPQConfig(bits=8)))
    for options in ({}, {"prompt_name": "query"}):
        np.testing.assert_array_equal(small.encode(TEXTS, **options), expected.encode(TEXTS, **options))
    findings = {one["check"]: one for one in run_json("doctor", tmp_path / "packed", "--quick")["findings"]}
    assert findings["embedder"]["state"] == "ok"
    assert findings["embedder"]["detail"].endswith("Transformer, Pooling, Dense, Normalize")
    run("export", tmp_path / "packed", "dense", "--out", tmp_path / "dense")
    np.testing.assert_allclose(embed(tmp_path / "dense"), small.encode(TEXTS), atol=0.05)


@pytest.mark.skipif(
    not hasattr(sentence_transformers, "MultiVectorEncoder"), reason="it came with sentence-transformers 6"
)
def test_late_interaction_comes_out_whole(embedders, here, tmp_path, run, run_json):
    """A vector for each token: the dense layer and the unit length stay, and scores are about all tokens."""
    kind = sentence_transformers.MultiVectorEncoder
    kind(str(embedders["apart"] / "0_Transformer"), device="cpu").save_pretrained(str(tmp_path / "colbert"))
    options = ("--data", "rows.txt", "--examples", 8, "--budget", "0.3x", "--rounding", "nearest")
    run("compress", tmp_path / "colbert", *options, "--out", tmp_path / "packed")
    plain, small = (kind(str(tmp_path / name), device="cpu") for name in ("colbert", "packed"))
    assert isinstance(small[0].model.get_input_embeddings(), hf_mpq.nn.PackedEmbedding)
    assert torch.equal(small[1].linear.weight, plain[1].linear.weight)
    scores = [one.similarity(one.encode_query(TEXTS[:2]), one.encode_document(TEXTS[2:])) for one in (plain, small)]
    assert 0 < (scores[0] - scores[1]).abs().max() < 0.2 * scores[0].abs().max()
    ranked = Dataset.from_dict({"query": TEXTS[:1] * 5, "passage": TEXTS[1:], "label": [0, 1, 0, 0, 0]})
    ranked.to_csv(tmp_path / "ranked.csv", index=False)
    told = ("--teacher", tmp_path / "colbert", "--data", tmp_path / "ranked.csv", "--task", "ranking")
    found = run_json("verify", tmp_path / "packed", *told, "--max-drop", "100")
    assert found["packed"] == pytest.approx(100 * ranking_scores(small, ranked)["ndcg@10"])
    findings = {one["check"]: one for one in run_json("doctor", tmp_path / "packed", "--quick")["findings"]}
    assert findings["embedder"]["state"] == "ok"
    assert findings["embedder"]["detail"].endswith("Transformer, Dense, MultiVectorMask, Normalize")


def pairs(folder: Path, **columns) -> str:
    """A table of pairs of texts with numbers."""
    table = {"sentence1": TEXTS, "sentence2": TEXTS[::-1], "label": [0.5, 3.0, 1.0, 2.0, 4.0, 5.0]}
    Dataset.from_dict({columns.get(name, name): values for name, values in table.items()}).to_csv(
        folder / "pairs.csv", index=False
    )
    return str(folder / "pairs.csv")


def test_verify_compares_similarities_of_vectors(embedders, tmp_path, run, run_json):
    run("compress", embedders["apart"], "--bits", "2", "--out", tmp_path / "packed")
    told = ("verify", tmp_path / "packed", "--teacher", embedders["apart"], "--data", pairs(tmp_path))
    found = run_json(*told, "--max-drop", "200")
    for name, folder in (("teacher", embedders["apart"]), ("packed", tmp_path / "packed")):
        first, second = embed(folder, prompt="find: "), embed(folder)[::-1]  # dot products, a query and a document
        expected = spearmanr((first * second).sum(1), [0.5, 3.0, 1.0, 2.0, 4.0, 5.0]).statistic
        assert found[name] == pytest.approx(100 * expected)
    assert found["metric"] == "spearmanr" and found["rows"] == 6 and found["label_loyalty"] is None
    short = run_json(*told, "--max-drop", "200", "--max-length", "10")
    assert short["teacher"] != found["teacher"], "texts are cut"


def test_the_smallest_that_keeps_the_similarities(embedders, tmp_path, run, run_json):
    """By the whole embedder, its dense layer and its dot product; and texts of pairs are looked at one by one."""
    whole, texts = embedders["apart"], [sentence(number)[0] for number in range(24)]
    encoder = sentence_transformers.SentenceTransformer(str(whole), device="cpu")
    alike = pair_similarities(encoder, texts, texts[::-1]).tolist()
    table = tmp_path / "pairs.csv"
    Dataset.from_dict({"sentence1": texts, "sentence2": texts[::-1], "label": alike}).to_csv(table, index=False)
    told = ("--rounding", "nearest", "--examples", 5)
    run("compress", whole, "--data", table, "--max-drop", "200", *told, "--out", tmp_path / "small")
    run("compress", whole, "--data", table, "--max-drop", "10", *told, "--out", tmp_path / "near")
    sizes = [(tmp_path / name / "0_Transformer" / "model.safetensors").stat().st_size for name in ("small", "near")]
    assert sizes[0] < sizes[1], "any drop is allowed"
    found = run_json("verify", tmp_path / "near", "--teacher", whole, "--data", table, "--max-drop", "10")
    assert found["passed"] and found["teacher"] == pytest.approx(100)
    words = load_tokenizer(whole)
    rows = open_data(Source(str(table)), load_float(whole).config).calibration(words, 40, 5, apart=True)
    assert {tuple(row) for row in rows["input_ids"]} <= {tuple(words(text)["input_ids"]) for text in texts}
    assert len(rows) == 5


def test_verify_compares_rankings(embedders, tmp_path, run, run_json):
    run("compress", embedders["together"], "--bits", "8", "--out", tmp_path / "packed")
    rows = {"query": [TEXTS[0]] * 3 + [TEXTS[1]] * 3, "passage": TEXTS, "label": [0, 0, 1, 1, 0, 0]}
    Dataset.from_dict(rows).to_csv(tmp_path / "ranked.csv", index=False)
    told = ("--data", tmp_path / "ranked.csv", "--task", "ranking")
    found = run_json("verify", tmp_path / "packed", "--teacher", embedders["together"], *told, "--max-drop", "100")
    encoder = sentence_transformers.SentenceTransformer(str(embedders["together"]), device="cpu")
    expected = ranking_scores(encoder, Dataset.from_dict(rows))
    assert found["metric"] == "ndcg@10" and found["teacher"] == pytest.approx(100 * expected["ndcg@10"])


def test_what_verify_needs_of_embedders(embedders, here, tmp_path, run, refused):
    run("compress", embedders["together"], "--bits", "8", "--out", tmp_path / "packed")
    told, table = ("verify", tmp_path / "packed", "--teacher", embedders["together"], "--data"), pairs(tmp_path)
    assert "compared on pairs of texts with a number" in refused(*told, "rows.csv")
    assert "compared on pairs of texts with a number" in refused(*told, "rows.txt")
    assert "leave out --tokenizer" in refused(*told, table, "--tokenizer", "my-fine-tuned-bert")
    assert "to be loyal to" in refused(*told, table, "--min-label-loyalty", "0.9")
    assert "is no embedder" in refused(*told[:3], "my-fine-tuned-bert", "--data", table)
    assert "holds a float model" in refused(*told[:1], embedders["together"], *told[2:], table)
    assert "is quantized already" in refused(*told[:3], tmp_path / "packed", "--data", table)
    assert "twice" in refused(*told, table, *("--text-column", "sentence1") * 2, "--label-column", "label")
    assert "all pairs are equally similar" in refused(*told, table, "--max-length", "2")
    assert "is no embedder" not in refused("verify", "packed", *told[2:], "rows.csv")
    assert "is an embedder" in refused("verify", "packed", *told[2:], "rows.csv")


def test_what_says_nothing_of_any_model_is_refused(embedders, here, tmp_path, run, refused):
    """It would count as 0 for the float model and for every other."""
    run("compress", embedders["together"], "--bits", "8", "--out", tmp_path / "packed")
    verified = ("verify", tmp_path / "packed", "--teacher", embedders["together"], "--data", tmp_path / "rows.csv")
    compressed = ("compress", embedders["together"], "--max-drop", "1", "--out", tmp_path / "out", "--data")
    for table, words in (
        ({"sentence1": TEXTS, "sentence2": TEXTS[::-1], "label": [1.0] * 6}, "all equal"),
        ({"sentence1": TEXTS[:1], "sentence2": TEXTS[1:2], "label": [1.0]}, "all equal"),
        ({"query": TEXTS, "passage": TEXTS, "label": [0, 1] * 3}, "passages of different relevance"),
        ({"query": TEXTS[:1] * 6, "passage": TEXTS, "label": [0] * 6}, "passages of different relevance"),
    ):
        Dataset.from_dict(table).to_csv(tmp_path / "rows.csv", index=False)
        task = ("--task", "ranking") if "query" in table else ()
        assert words in refused(*verified, *task) and words in refused(*compressed, tmp_path / "rows.csv", *task)
    assert not (tmp_path / "out").exists()


DAMAGES = {
    "no tokenizer in": lambda folder: [file.unlink() for file in folder.glob("tokenizer*.json")],
    "is damaged": lambda folder: shutil.rmtree(folder / "1_Pooling"),
    "model_type 'util'": lambda folder: (folder / "config_sentence_transformers.json").write_text(
        '{"model_type": "util"}'
    ),
    "is damaged (": lambda folder: (folder / "sentence_bert_config.json").write_text('{"unheard_of": 1}'),
    "makes no vector": lambda folder: _without_pooling(folder),
}


def _without_pooling(folder: Path) -> None:
    listed = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(listed[:1]))


@pytest.mark.parametrize("words", DAMAGES)
def test_verify_refuses_a_damaged_embedder(words, embedders, tmp_path, run, refused):
    run("compress", embedders["together"], "--bits", "8", "--out", tmp_path / "packed")
    DAMAGES[words](tmp_path / "packed")
    line = refused("verify", tmp_path / "packed", "--teacher", embedders["together"], "--data", pairs(tmp_path))
    assert words in line
    if words != "no tokenizer in":
        return
    bare = shutil.copytree(embedders["together"], tmp_path / "bare")
    DAMAGES[words](bare)
    run("compress", embedders["together"], "--bits", "8", "--out", tmp_path / "whole")
    assert words in refused("verify", tmp_path / "whole", "--teacher", bare, "--data", pairs(tmp_path))


def test_the_folder_of_a_model_with_a_head_is_an_embedder_too(tmp_path, tokenizer, run, run_json):
    """Its config names the head, and sentence-transformers loads it without."""
    from sentence_transformers.sentence_transformer import modules

    tiny_model("bert", "masked", vocab_size=len(tokenizer), pad_token_id=0).save_pretrained(tmp_path / "masked")
    tokenizer.save_pretrained(tmp_path / "masked")
    parts = [modules.Transformer(str(tmp_path / "masked"), max_seq_length=16), modules.Pooling(32, "mean")]
    sentence_transformers.SentenceTransformer(modules=parts, device="cpu").save_pretrained(str(tmp_path / "whole"))
    config = json.loads((tmp_path / "masked" / "config.json").read_text())
    (tmp_path / "whole" / "config.json").write_text(json.dumps(config))
    shutil.copy(tmp_path / "masked" / "model.safetensors", tmp_path / "whole")
    told = ("--data", pairs(tmp_path), "--max-drop", "150")
    run("compress", tmp_path / "whole", *told, "--rounding", "nearest", "--examples", 4, "--out", tmp_path / "packed")
    assert run_json("verify", tmp_path / "packed", "--teacher", tmp_path / "whole", *told)["passed"]


def test_what_does_not_fit_the_folder_is_refused(embedders, tmp_path, refused):
    told = ("compress", embedders["together"], "--data", pairs(tmp_path), "--out", tmp_path / "out")
    assert "leave hidden out" in refused(*told, "--budget", "0.3x", "--shape", "layers:1,hidden:16")
    assert "leave out --tokenizer" in refused(*told, "--max-drop", "1", "--tokenizer", embedders["apart"])


def test_a_gguf_file_has_the_pooling_of_the_folder(embedders, tmp_path, run):
    gguf = pytest.importorskip("gguf", reason="pip install 'hf_mpq[gguf]'")
    run("compress", embedders["apart"], "--bits", "8", "--out", tmp_path / "packed")
    run("export", tmp_path / "packed", "gguf", "--out", tmp_path / "gguf")
    fields = gguf.GGUFReader(tmp_path / "gguf" / "0_Transformer" / "model.gguf").fields
    assert fields["bert.pooling_type"].contents() == gguf.PoolingType.CLS


def test_scores_are_about_the_embeddings_that_the_folder_makes(embedders, here, tmp_path, run):
    """The pooling is the folder's own; another one that is asked for finds other bits."""
    folder = embedders["apart"]
    options = ("--data", "rows.txt", "--examples", 8, "--budget", "2.7bits", "--rounding", "nearest")
    run("compress", folder, *options, "--out", tmp_path / "own")
    run("compress", folder, *options, "--pooling", "mean", "--out", tmp_path / "mean")
    found = [hf_mpq.assignment_of(load_packed(tmp_path / name)) for name in ("own", "mean")]
    encoder, words = load_float(folder), load_tokenizer(folder)
    rows = open_data(Source("rows.txt"), encoder.config).calibration(words, 40, 8)
    expected = [
        hf_mpq.assignment_of(hf_mpq.compress(encoder, "2.7bits", rows, rounding="nearest", pooling=pooling))
        for pooling in ("cls", "mean")
    ]
    assert found == expected and found[0] != found[1]


def test_a_pooling_that_is_not_known_is_said(embedders, tmp_path, refused, capsys):
    folder = shutil.copytree(embedders["together"], tmp_path / "max")
    file = folder / "1_Pooling" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pooling_mode": "max"}))
    assert Embedder.of(folder).pooling is None
    assert "the pooling max of" in (said := capsys.readouterr().err) and "--pooling mean, cls or last" in said
    given = ("compress", folder, "--bits", 8, "--out", tmp_path / "out")
    assert "unknown pooling 'max'" in refused(*given, "--pooling", "max")
    for form, expected in (
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean"),
        ({"pooling_mode": ["cls"]}, "cls"),
        ({"pooling_mode": ["cls", "mean"]}, None),
    ):
        file.write_text(json.dumps({"word_embedding_dimension": 32, "include_prompt": True, **form}))
        assert Embedder.of(folder).pooling == expected


BREAKS = {
    "missing, which": lambda folder: shutil.rmtree(folder / "1_Pooling"),
    "modules.json names 2_Dense": lambda folder: (folder / "2_Dense" / "model.safetensors").unlink(),
    "2_Dense takes 99 features, and what comes before gives 32": lambda folder: (
        folder / "2_Dense" / "config.json"
    ).write_text('{"in_features": 99, "out_features": 4}'),
    "modules.json is not, so pooling is lost": lambda folder: (folder / "modules.json").unlink(),
    "names no modules in its folder": lambda folder: (folder / "modules.json").write_text(
        '[{"path": "", "type": "a.Transformer"}, {"path": "../../other", "type": "a.Pooling"}]'
    ),
    "is damaged": lambda folder: (folder / "modules.json").write_text("[3]"),
}


def test_doctor_sees_what_is_not_whole(embedders, tmp_path, run, run_json):
    run("compress", embedders["together"], "--bits", "8", "--out", tmp_path / "packed")
    for number, (words, damage) in enumerate(BREAKS.items()):
        folder = shutil.copytree(tmp_path / "packed", tmp_path / str(number))
        damage(folder)
        found = run_json("doctor", folder, "--quick", code=1)
        broken = [finding["detail"] for finding in found["findings"] if finding["state"] == "broken"]
        assert not found["sound"] and any(words.removeprefix("missing, ") in detail for detail in broken), words


def test_what_begins_with_no_encoder_is_refused(tmp_path, refused):
    folder = tmp_path / "static"
    (folder / "0_StaticEmbedding").mkdir(parents=True)
    listed = [{"path": "0_StaticEmbedding", "type": "sentence_transformers.models.StaticEmbedding"}]
    (folder / "modules.json").write_text(json.dumps(listed))
    line = refused("compress", folder, "--bits", "8", "--out", tmp_path / "out")
    assert "the first module of" in line and "is no encoder" in line and not (tmp_path / "out").exists()


def test_what_was_written_is_looked_at(tmp_path):
    packed = hf_mpq.pack(hf_mpq.quantize(tiny_model("bert"), hf_mpq.MPQConfig(bits=4)))
    packed.save_pretrained(tmp_path)
    check_written(packed, tmp_path, False)
    tensors = read_tensors(tmp_path)
    tensors["classifier.bias"] = tensors["classifier.bias"] + 1
    write_tensors(tmp_path, tensors)
    with pytest.raises(RuntimeError, match="so nothing is kept"):
        check_written(packed, tmp_path, False)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(RuntimeError, match="could not be loaded again"):
        check_written(packed, tmp_path, False)


def test_a_reranker_comes_out_whole(tmp_path, tokenizer, run):
    """A head with one score, which a sigmoid follows in sentence-transformers alone."""
    tiny_model("bert", vocab_size=len(tokenizer), pad_token_id=0, num_labels=1).save_pretrained(tmp_path / "float")
    tokenizer.save_pretrained(tmp_path / "float")
    ranker = sentence_transformers.CrossEncoder(
        str(tmp_path / "float"), device="cpu", activation_fn=torch.nn.Identity()
    )
    ranker.save_pretrained(str(tmp_path / "whole"))
    run("compress", tmp_path / "whole", "--bits", "8", "--out", tmp_path / "packed")
    small = sentence_transformers.CrossEncoder(str(tmp_path / "packed"), device="cpu")
    pairs = list(zip(TEXTS, TEXTS[::-1]))
    assert type(small.activation_fn) is torch.nn.Identity
    assert np.abs(small.predict(pairs) - ranker.predict(pairs)).max() < 0.1
