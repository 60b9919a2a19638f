"""`hf-mpq compress` on a tiny fine-tuned model and real files."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import AutoModel

import hf_mpq
from hf_mpq.cli.models import load_float, load_packed, load_tokenizer
from hf_mpq.cli.rows.data import Source, open_data
from hf_mpq.cli.scores import scorer
from tests.plugin.models import mixed_model, read_config
from tests.processes import start_python

MODEL = "my-fine-tuned-bert"
QUICK = ("--examples", "16", "--rounding", "nearest")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def names(folder):
    return {file.name for file in folder.iterdir()}


def test_budget_is_met_and_the_report_is_the_file(here, out, run_json):
    """The smaller one of two, which are both met."""
    budgets = ("--budget", "20%", "--budget", "encoder:0.9x")
    found = run_json("compress", MODEL, "--data", "rows.csv", *budgets, "--out", out, *QUICK)
    report = hf_mpq.size_report(out)
    assert 0.19 < found["ratio"] <= 0.2 and found["total_bytes"] == report.total_bytes
    assert found["folder"] == str(out) and found["average_bits"] == report.average_bits
    assert load_packed(out).config.id2label == {0: "negative", 1: "positive"}
    assert load_tokenizer(out).get_vocab() == load_tokenizer(MODEL).get_vocab()


def test_parts_have_options(here, out, run, run_json):
    """In either way to write them; what is misspelt is said before a model is loaded, with the known ones."""
    common = ("compress", MODEL, "--data", "rows.csv", "--budget", "20%", "--out", out, "--overwrite", *QUICK)
    for scorer_option in ("hessian:draws=1", '{"name": "hessian", "draws": 1}'):
        assert run_json(*common, "--scorer", scorer_option)["ratio"] <= 0.2
    for wrong, said in (("hessian:drws=1", "did you mean 'draws'?"), ("hesian:draws=1", "did you mean 'hessian'?")):
        assert said in run(*common, "--scorer", wrong, code=2).stderr


def test_the_smallest_within_a_drop(here, out, run_json):
    target = ("--data", "rows.csv", "--max-drop", "0", "--eval-rows", "32")
    found = run_json("compress", MODEL, *target, "--out", out, *QUICK)
    checked = run_json("verify", out, "--teacher", MODEL, *target)
    assert checked["passed"] and checked["rows"] == 32 and found["ratio"] < 0.2


def test_drops_are_in_points(here, run_json):
    """What `--max-drop` goes by is what `verify` reports."""
    float_model, words = load_float(MODEL), load_tokenizer(MODEL)
    evaluate = scorer(open_data(Source("rows.csv"), float_model.config), words, 32, None)
    found = run_json("verify", "worse", "--teacher", MODEL, "--data", "rows.csv", code=1)
    assert (evaluate(float_model), evaluate(load_packed("worse"))) == (found["teacher"], found["packed"])
    assert found["teacher"] == 100.0


def test_one_precision_needs_no_data(here, out, run):
    result = run("compress", MODEL, "--bits", "8", "--out", out)
    assert "8.00 bits per encoder weight" in result.stdout and str(out) in result.stderr


def test_published_method(here, out, run_json):
    found = run_json(
        "compress",
        MODEL,
        "--data",
        "rows.txt",
        "--method",
        "zeroquant",
        "--out",
        out,
        "--examples",
        "8",
        "--rounding",
        "nearest",
    )
    assert found["average_bits"] == 8.0


def test_labels_are_not_read_where_nothing_is_scored(here, out, tmp_path, run, refused):
    """Those of another task, as any labelled file has them."""
    Dataset.from_dict({"text": ["a list", "of names"], "label": ["sports", "arts"]}).to_json(tmp_path / "rows.jsonl")
    given = ("compress", MODEL, "--data", tmp_path / "rows.jsonl", "--out", out, *QUICK)
    run(*given, "--budget", "0.3x")
    assert "['arts', 'sports'] are none of the model's" in refused(*given, "--max-drop", "1", "--overwrite")


def test_what_looks_at_weights_only_needs_no_data(here, out, run_json, refused):
    given = ("compress", MODEL, "--budget", "0.3x", "--out", out, "--rounding", "nearest")
    assert run_json(*given, "--scorer", "distance")["ratio"] <= 0.3
    line = refused(*given, "--overwrite")
    assert "no calibration examples were given, and 'fisher' needs them" in line and "give --data" in line


def test_rows_without_text_are_left_out(here, out, tmp_path, run, refused):
    (tmp_path / "rows.csv").write_text("text,label\na list,positive\n,negative\nof names,\n")
    run_with = ("compress", MODEL, "--budget", "0.3x", "--out", out, *QUICK, "--data")
    said = run(*run_with, tmp_path / "rows.csv").stderr
    assert "rows.csv, split 'train': left out 1 of 3 rows, which have no text in 'text'" in said
    (tmp_path / "empty.csv").write_text("text,label\n,positive\n,negative\n")
    line = refused(*run_with, tmp_path / "empty.csv", "--text-column", "text", "--overwrite")
    assert "none of the 2 rows has a text in 'text', so give others, or another --text-column" in line


@pytest.mark.parametrize("size", [-1, 100], ids=["one byte less", "hardly more than nothing"])
def test_truncated_weights(size, here, out, tmp_path, refused):
    folder = shutil.copytree(MODEL, tmp_path / "float")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    line = refused("compress", folder, "--bits", "8", "--out", out)
    assert f"the weights in {folder} are damaged" in line and "copy or download the folder again" in line
    assert not out.exists()


def test_weights_that_are_not_there(here, out, tmp_path, refused):
    """They would be random: a packed folder that lost its quantization_config, and one without its head."""
    shutil.copytree("packed", tmp_path / "forgot")
    config = read_config(tmp_path / "forgot")
    del config["quantization_config"]
    (tmp_path / "forgot" / "config.json").write_text(json.dumps(config))
    AutoModel.from_pretrained(MODEL).save_pretrained(tmp_path / "headless")
    shutil.copy(Path(MODEL) / "config.json", tmp_path / "headless")
    for folder, first in (("forgot", "embeddings"), ("headless", "classifier")):
        line = refused("compress", tmp_path / folder, "--bits", "8", "--out", out)
        assert "of the weights of a BertForSequenceClassification" in line and first in line
        line = refused("verify", "packed", "--teacher", tmp_path / folder, "--data", "rows.csv")
        assert "which would be random" in line
    assert not out.exists()


def test_a_pooler_may_be_new(here, out, tmp_path, run):
    AutoModel.from_pretrained(MODEL, add_pooling_layer=False).save_pretrained(tmp_path / "bare")
    for file in Path(MODEL).glob("token*"):
        shutil.copy(file, tmp_path / "bare")
    run("compress", tmp_path / "bare", "--bits", "8", "--out", out)


def test_a_damaged_tokenizer_is_not_passed_over(here, tmp_path, refused):
    """For that of the teacher, say."""
    for name, text in (("tokenizer_config.json", "[]"), ("tokenizer.json", "{")):
        folder = shutil.copytree("packed", tmp_path / name)
        (folder / name).write_text(text)
        line = refused("verify", folder, "--teacher", MODEL, "--data", "rows.csv")
        assert f"the tokenizer in {folder} is damaged" in line
        assert "is damaged" in refused("export", folder, "onnx", "--out", tmp_path / "out")


@pytest.mark.parametrize("fields", [{"architectures": [3]}, {"dtype": 3}], ids=str)
def test_words_of_the_config_that_are_none(fields, here, tmp_path, refused):
    folder = shutil.copytree("packed", tmp_path / "packed")
    (folder / "config.json").write_text(json.dumps({**read_config(folder), **fields}))
    for words in (("inspect", folder), ("export", folder, "dense", "--out", tmp_path / "out")):
        assert f"config.json of {folder} is damaged" in refused(*words)


def test_a_picture_does_not_take_the_name_of_a_folder(here, tmp_path, refused):
    assert "is a folder, give the name of a file" in refused("inspect", "packed", "--picture", tmp_path)


def test_damaged_config(here, out, tmp_path, refused):
    folder = shutil.copytree(MODEL, tmp_path / "float")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": "x"}))
    assert f"config.json of {folder} is damaged" in refused("compress", folder, "--bits", "8", "--out", out)


MISTAKES = [
    (("--out", "new"), "say how small: --budget 0.25x, --max-drop 1.0 or --bits 4"),
    (("--budget", "0.3x", "--out", "new"), "give --data"),
    (("--bits", "4", "--budget", "0.3x", "--out", "new"), "--bits 2,3,4,8"),
    (("--bits", "four", "--out", "new"), "write one number (4) or several (2,3,4,8)"),
    (("--bits", "9", "--out", "new"), "bits must be whole numbers from 0 (pruned) to 8"),
    (("--budget", "1x", "--max-drop", "1", "--data", "rows.csv", "--out", "new"), "either --budget or --max-drop"),
    (("--budget", "4", "--data", "rows.csv", "--out", "new"), "the budget '4' has no unit"),
    (("--budget", "12mb", "--data", "rows.csv", "--out", "new"), "did you mean '12MB'"),
    (("--budget", "20%", "--budget", "1MB", "--data", "rows.csv", "--out", "new"), "two limits of one kind (model)"),
    (("--budget", "small", "--data", "rows.csv", "--out", "new"), "cannot read the budget 'small'"),
    (("--budget", "1kB", "--data", "rows.csv", "--out", "new"), "smallest possible"),
    (("--max-drop", "1", "--data", "rows.txt", "--out", "new"), "--max-drop needs labels"),
    (("--budget", "0.3x", "--data", "rows.xlsx", "--out", "new"), "there is no task, file or folder 'rows.xlsx'"),
    (("--budget", "0.3x", "--data", "sst3", "--out", "new"), "give one of the tasks cola, conll2003"),
    (("--budget", "0.3x", "--data", "rows.csv", "--text-column", "texts", "--out", "new"), "another --text-column"),
    (("--budget", "0.3x", "--data", "rows.csv", "--label-column", "y", "--out", "new"), "another --label-column"),
    (("--budget", "0.3x", "--data", "sst2", "--data-dir", "nowhere", "--out", "new"), "--data-dir takes the folder"),
    (("--budget", "0.3x", "--data", "rows.csv", "--data-config", "sst2", "--out", "new"), "leave out --data-config"),
    (("--budget", "0.3x", "--data", "rows.csv", "--scorer", "magic", "--out", "new"), "unknown scorer 'magic'"),
    (("--budget", "0.3x", "--data", "rows.csv", "--allocator", "Mlip", "--out", "new"), "did you mean 'milp'"),
    (("--bits", "8", "--method", "magic", "--out", "new"), "unknown method 'magic'"),
    (("--bits", "8", "--out", "rows.csv"), "rows.csv is a file: give another --out"),
    (("--bits", "8", "--out", "packed"), "packed is not empty: give another --out, or --overwrite"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[words for _, words in MISTAKES])
def test_mistakes(arguments, words, here, refused):
    before = names(here)
    quick = QUICK if "--data" in arguments else ()
    assert words in refused("compress", MODEL, *arguments, *quick)
    assert names(here) == before


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nowhere/at/all", "there is no folder nowhere/at/all"),
        ("someone/unknown", "the Hub does not give a model"),
        ("packed", "is quantized already: give the float model"),
        ("data", "data has no config.json"),
    ],
)
def test_wrong_models(model, words, here, out, refused):
    assert words in refused("compress", model, "--bits", "8", "--out", out)
    assert not out.exists()


def test_a_model_without_its_tokenizer(here, out, refused, tmp_path):
    shutil.copytree(MODEL, tmp_path / "bare", ignore=shutil.ignore_patterns("token*", "vocab*"))
    assert "no tokenizer in" in refused("compress", tmp_path / "bare", "--bits", "8", "--out", out)


def test_overwriting(here, out, run):
    """A packed folder of anybody's, and then what the command itself wrote."""
    shutil.copytree("packed", out)
    (out / "README.md").write_text("theirs")
    for bits in ("8", "3"):
        run("compress", MODEL, "--bits", bits, "--out", out, "--overwrite")
        assert read_config(out)["quantization_config"]["bits"] == int(bits)
        assert (out / "README.md").read_text() == "theirs" and names(out.parent) == {"out"}


def test_what_was_there_stays_when_it_fails(here, out, refused):
    shutil.copytree("packed", out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    refused("compress", MODEL, "--data", "rows.csv", "--budget", "1kB", "--out", out, "--overwrite", *QUICK)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before and names(out.parent) == {"out"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((MODEL, "--out", MODEL), f"{MODEL} is {MODEL}, which is read"),
        ((MODEL, "--out", "data", "--data", "data/sst2"), "data holds data/sst2, which is read"),
        ((MODEL, "--out", "data"), "data holds what hf-mpq did not write (sst2)"),
        ((f"../{{home}}/{MODEL}", "--out", "../{home}"), "holds ../{home}/my-fine-tuned-bert, which is read"),
        (("someone/unknown", "--out", "../{home}"), "is the folder that this runs in, or holds it"),
    ],
)
def test_what_is_never_replaced(arguments, words, here, refused):
    before = sorted(str(file) for file in here.rglob("*"))
    arguments = [word.format(home=here.name) for word in arguments]
    assert words.format(home=here.name) in refused("compress", *arguments, "--bits", "8", "--overwrite")
    assert sorted(str(file) for file in here.rglob("*")) == before


def test_an_export_over_an_export(here, out, run, refused):
    """Its files go, although nothing in them says where they came from; the packed model is never its place."""
    for format in ("dense", "compressed-tensors", "dense"):
        run("export", "packed", format, "--out", out, "--overwrite")
    assert "quantization_config" not in read_config(out)
    assert "packed is packed, which is read" in refused("export", "packed", "dense", "--out", "packed", "--overwrite")


ENDLESS = """
import copy
import hf_mpq
from hf_mpq.cli.main import app

def endless(model, *arguments, **options):
    while True:
        compress(copy.deepcopy(model), *arguments, **options)

compress, hf_mpq.compress = hf_mpq.compress, endless
app()
"""


def test_interrupted(here, out, tmp_path_factory):
    """Ctrl-C in the midst of the work, which does not end before it comes, leaves neither the folder nor a part of
    it, also where the tests run in the background of a shell, which has it ignored."""
    words = ["-c", ENDLESS, "compress", MODEL, "--data", "rows.csv", "--budget", "0.2x", "--out", out, "--scorer", "kl"]
    printed = tmp_path_factory.mktemp("printed")
    process = start_python(words, printed, cwd=here)
    while not names(out.parent):
        assert process.is_alive()
        time.sleep(0.05)
    while process.is_alive():  # a user presses again when it was lost in a destructor
        os.kill(process.pid, signal.SIGINT)
        process.join(timeout=100)
    said = (printed / "stderr").read_text()
    assert process.exitcode == 130 and said.splitlines()[-1] == "interrupted; nothing half written is left"
    assert names(out.parent) == set()


def test_a_quantized_model_in_training_is_no_float_model(tmp_path, refused):
    mixed_model().save_pretrained(tmp_path / "trainable")
    assert "is quantized already" in refused("compress", tmp_path / "trainable", "--bits", "8", "--out", tmp_path / "x")
    assert json.loads((tmp_path / "trainable" / "config.json").read_text())["quantization_config"]["storage"] == (
        "trainable"
    )
