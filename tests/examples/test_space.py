"""The Space in `examples/space`: what it does with tiny models of every head, and the page where gradio is there."""

import importlib
import re
import tomllib
from importlib.util import find_spec
from urllib.request import urlopen
from zipfile import ZipFile

import pytest
import yaml
from transformers import AutoModelForSequenceClassification, pipeline

from tests.docs.pages import ROOT
from tests.docs.test_code_blocks import models
from tests.processes import run_python
from tests.tiny import tiny_model

SPACE = ROOT / "examples" / "space"
TEXTS = "\n".join(f"returns the list of {number} names" for number in range(8))
needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="pip install -e '.[app]'")


@pytest.fixture
def workshop(monkeypatch):
    """The Space's module; the command runs in a forked process, and rounds to the nearest, which is quick."""
    monkeypatch.syspath_prepend(SPACE)
    monkeypatch.delenv("SPACE_ID", raising=False)
    module = importlib.import_module("workshop")
    quick = ["--rounding", "nearest"]
    monkeypatch.setattr(module.subprocess, "run", lambda words, **options: run_python([*words[1:], *quick]))
    return module


@pytest.fixture(scope="session")
def folders(made_once, tokenizer):
    """Fine-tuned models of every head, each with its tokenizer."""
    return made_once("docs-models", lambda folder: models(folder, tokenizer))


@pytest.fixture
def made(workshop, folders):
    found = workshop.compress(str(folders / "my-fine-tuned-bert"), "40%", TEXTS)
    yield found
    found.forget()


@pytest.mark.full
def test_a_folder_comes_out(made, folders):
    """Packed, within the budget, with its card and picture, and whole as a zip file too."""
    assert made.report["ratio"] <= 0.4
    assert (
        made.picture.read_bytes().startswith(b"\x89PNG") and "import hf_mpq" in (made.folder / "README.md").read_text()
    )
    names = {path.name for path in made.folder.iterdir()}
    assert set(ZipFile(made.archive).namelist()) - {"./"} == names
    rows = {part: (before, after) for part, before, after in made.sizes()}
    before, after = (float(text.removesuffix(" MB")) for text in rows["whole model"])
    assert before == pytest.approx((folders / "my-fine-tuned-bert" / "model.safetensors").stat().st_size / 1e6, rel=0.1)
    assert after == pytest.approx((made.folder / "model.safetensors").stat().st_size / 1e6, rel=0.3) and after < before
    assert AutoModelForSequenceClassification.from_pretrained(made.folder).config.quantization_config
    large, small = made.answers("returns the list")
    want = pipeline("text-classification", str(folders / "my-fine-tuned-bert"))("returns the list", top_k=None)
    assert large == {one["label"]: pytest.approx(one["score"]) for one in want}
    assert small.keys() == large.keys() and small != large
    assert made.answers("returns the list", "raises")[0] != large
    made.forget()
    assert not made.folder.exists()


@pytest.mark.full
def test_without_texts_bits_are_found_from_the_weights(workshop, folders):
    found = workshop.compress(str(folders / "my-fine-tuned-bert"), "40%")
    assert 0 < found.report["ratio"] <= 0.4
    found.forget()


HEADS = {
    "my-tagger": ("returns the list", "", r".+ \(LABEL_\d\)|nothing is tagged"),
    "my-reader": ("what is returned", "the call returns a list", r"[a-z ]+"),
    "my-embedder": ("returns the list", "raises an error", "cosine of the means"),
    "masked": ("returns the [MASK]", "", ".+"),
}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_answers(name, workshop, folders, tmp_path, tokenizer):
    """By the model itself: the two sides differ only in where it is loaded from."""
    if name == "masked":
        model = tiny_model("bert", "masked", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    text, other, pattern = HEADS[name]
    reader = workshop.Reader(str((tmp_path if name == "masked" else folders) / name))
    found = reader.answer(text, other)
    assert found and all(re.fullmatch(pattern, answer) and -1 <= value <= 1 for answer, value in found.items())


def test_answers_are_spans_of_the_context(workshop, folders):
    context = "the call returns a list of names"
    found = workshop.Reader(str(folders / "my-reader")).answer("what is returned", context)
    assert len(found) == 3 and all(span and span in context for span in found)
    assert all(0 < score <= 1 for score in found.values())


REFUSALS = {
    "nothing": ("", "25%", "name a model"),
    "an option": ("--help", "25%", "name a model"),
    "no budget": ("my-fine-tuned-bert", " ", "say how small"),
    "no model": ("data", "25%", "transformers finds no model"),
}
BY_COMMAND = {
    "a budget that is none": ("my-fine-tuned-bert", "small", "small"),
    "a budget that is too small": ("my-fine-tuned-bert", "1%", "smallest"),
    "packed already": ("my-packed-bert", "25%", "is quantized already"),
}
MARKED = [pytest.param(*one, id=name) for name, one in REFUSALS.items()]
MARKED += [pytest.param(*one, id=name, marks=pytest.mark.full) for name, one in BY_COMMAND.items()]


@pytest.mark.parametrize(("name", "budget", "words"), MARKED)
def test_mistakes_are_told(name, budget, words, workshop, folders):
    source = name if name in ("", "--help") else str(folders / name)
    with pytest.raises(workshop.Refused, match=words):
        workshop.compress(source, budget)


def test_questions_that_cannot_be_answered(workshop, folders):
    with pytest.raises(workshop.Refused, match="write the question first"):
        workshop.Reader(str(folders / "my-reader")).answer("what", "")
    with pytest.raises(workshop.Refused, match="write a second text"):
        workshop.Reader(str(folders / "my-embedder")).answer("what", "")


def test_on_the_hub_no_folder_and_no_large_model_is_taken(workshop, folders, monkeypatch):
    monkeypatch.setattr(workshop, "MOST_PARAMETERS", 1000)
    with pytest.raises(workshop.Refused, match="million parameters, and here at most"):
        workshop.compress(str(folders / "my-fine-tuned-bert"), "25%")
    monkeypatch.setattr(workshop, "SHARED", True)
    for place in (folders / "my-fine-tuned-bert", "../somewhere", "~/model"):
        with pytest.raises(workshop.Refused, match="only models on the Hub"):
            workshop.compress(str(place), "25%")


def test_the_folder_is_a_space():
    """Its front matter names what is here, and its requirements are those of the package."""
    _, front, text = (SPACE / "README.md").read_text().split("---\n", 2)
    said = yaml.safe_load(front)
    assert said["sdk"] == "gradio" and (SPACE / said["app_file"]).is_file() and text.strip().startswith("# ")
    assert len(said["short_description"]) <= 60
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert f"gradio>={said['sdk_version'].split('.')[0]}" in extras["app"]
    needed = [
        *project["dependencies"],
        *(one for extra in ("train", "report", "tasks", "cli") for one in extras[extra]),
    ]
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    assert {one for one in lines if not one.startswith("#")} == {one for one in needed if not one.startswith("hf_mpq")}


@pytest.mark.full
@needs_gradio
def test_the_page_is_served_and_its_functions_do_it(workshop, folders):
    import gradio

    app = importlib.import_module("app")
    served = app.page()
    _, address, _ = served.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, ssr_mode=False)
    try:
        with urlopen(address) as answer:
            assert "Make an encoder small" in answer.read().decode()
        first = app.make(str(folders / "my-fine-tuned-bert"), "40%", TEXTS, None)
        made, words, sizes, picture, archive, _ = app.make(str(folders / "my-fine-tuned-bert"), "50%", "", first[0])
        assert not first[0].folder.exists() and "bits per encoder weight" in words and sizes[0][0] == "whole model"
        assert picture.endswith("bits.png") and ZipFile(archive).testzip() is None
        large, small, verdict = app.ask(made, "returns the list", "")
        assert large.keys() == small.keys() and verdict.startswith(("Both decide alike", "They decide differently"))
        assert app.compared({"cosine": 0.5}, {"cosine": 0.25}) == "They differ by 0.2500."
        for wrong in (
            lambda: app.ask(None, "a", ""),
            lambda: app.ask(made, " ", ""),
            lambda: app.make("", "25%", "", None),
        ):
            with pytest.raises(gradio.Error):
                wrong()
        made.forget()
    finally:
        served.close()
