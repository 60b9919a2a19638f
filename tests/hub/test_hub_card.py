"""What the card of a model says, what it leaves alone, and what must not be in it."""

import copy
import json
import pickle
import re
import shlex
import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, DatasetInfo, NamedSplit
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects
from markdown_it import MarkdownIt
from transformers import AutoModelForSequenceClassification

import hf_mpq
from hf_mpq.hub import CardFacts, push
from hf_mpq.hub.card import write_card
from hf_mpq.hub.push import IGNORED
from hf_mpq.plugin.origin import command_line, hub_name
from hf_mpq.training.run.publishing import dataset_facts
from tests.plugin.models import read_config, reload, stored_model
from tests.plugin.test_users import save_tokenizer
from tests.tiny import HEADS, tiny_model

PIPELINES = {
    "bare": "feature-extraction",
    "sequence": "text-classification",
    "token": "token-classification",
    "question": "question-answering",
    "masked": "fill-mask",
}
THEIRS = """---
license: apache-2.0
language: de
tags: [news]
base_model: /home/me/bert
model-index:
- name: theirs
  results:
  - task: {type: text-classification}
    dataset: {name: News, type: me/news}
    metrics:
    - {type: f1, value: 0.5, name: f1}
---

# News

Which news these are.
"""


def packed(folder, bits: int = 4, head: str = "sequence", **changes):
    model = hf_mpq.pack(hf_mpq.quantize(tiny_model("bert", head, **changes), hf_mpq.MPQConfig(bits=bits, groups=10)))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("head", HEADS)
def test_the_snippet_loads_the_model(head, tmp_path):
    """It is run as it stands on the card, with the folder as the name."""
    model = packed(tmp_path, head=head)
    card = ModelCard(write_card(tmp_path, CardFacts(repo_id=str(tmp_path))).read_text())
    assert card.data.pipeline_tag == PIPELINES[head]
    snippet, names = card.text.split("```python\n")[1].split("```")[0], {}
    assert snippet.startswith("import hf_mpq")
    exec(snippet, names)
    assert type(names["model"]) is type(model)


@pytest.mark.parametrize("head", HEADS)
def test_beside_a_tokenizer_the_snippet_loads_a_pipeline_where_there_is_one(head, tmp_path, tokenizer):
    """And the page has an example, with what the packed model says of it where the Hub shows that."""
    model = packed(tmp_path, head=head, vocab_size=len(tokenizer))
    tokenizer.save_pretrained(tmp_path)
    card = ModelCard(write_card(tmp_path, CardFacts(repo_id=str(tmp_path))).read_text())
    names: dict = {}
    exec(card.text.split("```python\n")[1].split("```")[0], names)
    assert type(names["pipe"].model if "pipe" in names else names["model"]) is type(model)
    (example,) = card.data.widget
    assert ("output" in example) == (head in ("sequence", "masked"))
    if "output" in example:
        found = names["pipe"](example["text"], top_k=len(example["output"]))
        want = {one.get("label", one.get("token_str")): pytest.approx(one["score"], abs=1e-3) for one in found}
        assert {one["label"]: one["score"] for one in example["output"]} == want


@pytest.mark.full
def test_examples_are_those_of_the_weights_and_of_the_language(tmp_path, tokenizer):
    """Those of the user stay."""
    saved = {}
    for bits in (8, 1):
        packed(tmp_path, bits, vocab_size=len(tokenizer))
        tokenizer.save_pretrained(tmp_path)
        saved[bits] = ModelCard(write_card(tmp_path).read_text()).data.widget
    assert saved[8][0]["text"] == saved[1][0]["text"] and saved[8] != saved[1]
    assert ModelCard(write_card(tmp_path, CardFacts(language="de")).read_text()).data.get("widget") is None
    theirs = (tmp_path / "README.md").read_text().replace("---\n", "---\nwidget:\n- text: Was gibt es?\n", 1)
    (tmp_path / "README.md").write_text(theirs)
    assert ModelCard(write_card(tmp_path).read_text()).data.widget == [{"text": "Was gibt es?"}]


def test_a_tokenizer_of_another_model_makes_no_answers(tmp_path, tokenizer):
    packed(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (example,) = ModelCard(write_card(tmp_path).read_text()).data.widget
    assert set(example) == {"text"}


def test_a_folder_of_sentence_transformers_is_one_of_theirs(tmp_path):
    packed(tmp_path, head="bare")
    for kind, task in {"SentenceTransformer": "sentence-similarity", "CrossEncoder": "text-ranking"}.items():
        (tmp_path / "README.md").unlink(missing_ok=True)
        (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({"model_type": kind}))
        data = ModelCard(write_card(tmp_path).read_text()).data
        assert (data.library_name, data.pipeline_tag) == ("sentence-transformers", task)
        assert (data.get("widget") is None) == (kind == "CrossEncoder")


@pytest.mark.full
@pytest.mark.parametrize("kind", ["SentenceTransformer", "CrossEncoder"])
def test_the_snippet_of_an_embedder_and_of_a_reranker(kind, tmp_path):
    """What sentence-transformers says of its own model stays, and the snippet loads by its class."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    packed(tmp_path / "plain", head="bare" if kind == "SentenceTransformer" else "sequence")
    save_tokenizer(tmp_path / "plain")
    getattr(sentence_transformers, kind)(str(tmp_path / "plain"), device="cpu").save_pretrained(str(tmp_path / "saved"))
    text, names = write_card(tmp_path / "saved", CardFacts(str(tmp_path / "saved"))).read_text(), {}
    assert ModelCard(text).data.library_name == "sentence-transformers"
    exec(text.split("import hf_mpq  #")[1].split("```")[0].split("\n", 1)[1], names)
    assert type(names["model"]).__name__ == kind


def test_words_and_metadata_of_the_user_stay(tmp_path):
    packed(tmp_path)
    (tmp_path / "README.md").write_text(THEIRS)
    text = write_card(tmp_path, CardFacts("me/news-bert", metrics={"accuracy": 0.75, "loss": 0.4})).read_text()
    card = ModelCard(text)
    assert card.text.strip().startswith("# News\n\nWhich news these are.\n\n<!-- hf_mpq")
    assert (card.data.license, card.data.language) == ("apache-2.0", "de")
    assert card.data.tags[0] == "news" and "hf-mpq" in card.data.tags
    assert card.data.base_model is None and "/home/me" not in text
    scores = {(one.dataset_type, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert scores == {("unknown", "accuracy"): 0.75, ("me/news", "f1"): 0.5}
    assert write_card(tmp_path, CardFacts("me/news-bert")).read_text() == text, "a second time changes nothing"


def test_scores_of_other_weights_are_dropped(tmp_path):
    packed(tmp_path, bits=4)
    (tmp_path / "README.md").write_text(THEIRS)
    write_card(tmp_path, CardFacts(metrics={"accuracy": 0.75}, command="old command"))
    packed(tmp_path, bits=2)
    text = write_card(tmp_path).read_text()
    assert "0.75" not in text and "old command" not in text and text.count("## Compressed with hf_mpq") == 1
    assert "2.00 bits" in text and "4.00 bits" not in text
    assert [one.metric_type for one in ModelCard(text).data.eval_results] == ["f1"]


def test_a_title_of_ours_follows_the_name(tmp_path):
    packed(tmp_path / "packed")
    assert "\n# packed\n" in write_card(tmp_path / "packed").read_text()
    assert "\n# small-bert\n" in write_card(tmp_path / "packed", CardFacts("me/small-bert")).read_text()


def test_metadata_that_cannot_be_read(tmp_path):
    packed(tmp_path)
    (tmp_path / "README.md").write_text("---\ntags: [open\n---\n")
    with pytest.raises(ValueError, match=r"metadata at the top of .*README.md cannot be read"):
        write_card(tmp_path)


@pytest.mark.parametrize("storage, words", [("packed", "random weights"), ("trainable", "checkpoint for training")])
def test_what_the_card_warns_of(storage, words, tmp_path):
    stored_model(storage).save_pretrained(tmp_path)
    assert words in write_card(tmp_path).read_text().replace("**", "")


def test_a_folder_is_no_base_model(tmp_path):
    """Only a name on the Hub is, and it stays with the model through packing, saving and loading."""
    tiny_model("bert").save_pretrained(tmp_path / "float")
    config = hf_mpq.MPQConfig(bits=4, groups=10)
    local = AutoModelForSequenceClassification.from_pretrained(tmp_path / "float", quantization_config=config)
    hf_mpq.pack(local).save_pretrained(tmp_path / "local")
    text = write_card(tmp_path / "local").read_text()
    assert "base_model" not in text and str(tmp_path) not in text
    named = tiny_model("bert")
    named.name_or_path = "me/bert"
    hf_mpq.pack(hf_mpq.quantize(named, hf_mpq.MPQConfig(bits=4))).save_pretrained(tmp_path / "named")
    reload(tmp_path / "named").save_pretrained(tmp_path / "again")
    origin = read_config(tmp_path / "again")["quantization_config"]["origin"]
    assert origin == read_config(tmp_path / "named")["quantization_config"]["origin"]
    assert origin["base_model"] == "me/bert" and set(origin["versions"]) == {"hf_mpq", "transformers", "torch"}
    assert ModelCard(write_card(tmp_path / "again").read_text()).data.base_model == "me/bert"


@pytest.mark.parametrize(
    "name, expected",
    [
        ("me/bert", "me/bert"),
        ("bert-base-uncased", "bert-base-uncased"),
        ("/home/me/bert", None),
        ("out/run/bert", None),
        (".", None),
        ("", None),
        (None, None),
    ],
)
def test_names_on_the_hub(name, expected):
    assert hub_name(name) == expected


def told(monkeypatch, words, module=None) -> str | None:
    """What is remembered of a command line."""
    monkeypatch.setattr(sys, "argv", words)
    spec = ModuleSpec(module, None) if module else None
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=spec))
    return command_line()


@pytest.mark.parametrize(
    "module, words, expected",
    [
        (
            None,
            ["/usr/bin/hf-mpq", "compress", "me/bert", "--data", "sst2", "--budget", "0.25x", "--out", "/tmp/x"],
            "hf-mpq compress ... --data sst2 --budget 0.25x ...",
        ),
        (
            None,
            ["hf-mpq", "compress", "m", "--bits=2,3,4,8", "--max-drop", "1.0", "--method", "aq-bert+kd"],
            "hf-mpq compress ... --bits=2,3,4,8 --max-drop 1.0 --method aq-bert+kd",
        ),
        (
            None,
            ["/home/alice/train.py", "--learning_rate", "2e-5", "--bf16", "--seed", "1", "--name", "x", "a b"],
            "python train.py --learning_rate 2e-5 --bf16 --seed 1 ...",
        ),
        ("recipes.__main__", ["/x/recipes/__main__.py", "a"], "python -m recipes ..."),
        ("ipykernel_launcher", ["/x/ipykernel_launcher.py", "-f", "/x/kernel.json"], None),
        (None, ["-c"], None),
        (None, [""], None),
        (None, ["/home/alice"], "..."),
    ],
)
def test_the_command(module, words, expected, monkeypatch):
    assert told(monkeypatch, words, module) == expected


SECRETS = [
    "-t X",
    "--token X",
    "--hub_token=X",
    "--api-key X",
    "--password=X",
    "--header 'Authorization: Bearer X'",
    "--passwd X",
    "--pat=X",
    "--credentials X",
    "--token_value X",
    "hub_token=X",
    "HF_TOKEN=X",
    """--stages '{"hub_token": "X"}'""",
    "training.hub_token=X",
    "https://user:X@host",
    "--aws_access_key_id X",
    "ghp_X",
    "sk-X",
    "hf_X",
    "--data hf_X",
    "X",
    "--seed ghp_X",
    "--seed 1 X",
    "--method=https://user:X@host",
]
PATHS = [
    "/home/alice/x",
    "--out=/home/alice/my x",
    "~/alice",
    "../../home/alice/x",
    "~alice/x",
    r"\\server\alice",
    "alice/x",
    r"C:\Users\alice\x",
    "file:/home/alice",
    "file:///home/alice/x",
    "host:/home/alice/x",
    "/home/alice",
    "./alice",
    "--data /home/alice/rows.csv",
    "--data=~alice",
    "--data ../alice",
    "--data alice",
    "--task file:/home/alice",
    """--options '{"dir": "/home/alice"}'""",
    "--data hdfs://host/alice",
    "--method /home/alice/method.yaml",
]


@pytest.mark.parametrize("words", [*SECRETS, *PATHS])
@pytest.mark.parametrize("program", ["/home/alice/bin/hf-mpq", "train.py"])
def test_no_secret_and_no_path_is_told(program, words, monkeypatch, tmp_path):
    """What is shown is known, and not what is hidden; `alice` is a folder here too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alice").mkdir()
    given = [program, "compress", *shlex.split(words.replace("X", "Abcdefgh12345")), "--bits", "4"]
    command = told(monkeypatch, given)
    assert command.endswith("--bits 4") and "..." in command
    assert not any(word in command for word in ("Abcdefgh12345", "alice", "home", "Users"))


HOSTILE = "x\x1b[2J`code`\n```\n</div><script>alert(1)</script>|[b]\\[/x]$x^$<!-- end of hf_mpq -->\u202e"


def test_hostile_metadata_on_a_card(tmp_path):
    """Whatever a config.json that came from somewhere says, the card's structure is its own."""
    packed(tmp_path)
    config = read_config(tmp_path)
    origin = {"base_model": HOSTILE, "command": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    config["quantization_config"]["origin"] = origin
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({"model_type": "os\nimport os"}))
    facts = CardFacts(repo_id='me/"x', metrics={HOSTILE: 0.5}, dataset=HOSTILE)
    for _ in range(2):  # the second time the section is found by its marks
        text = write_card(tmp_path, facts).read_text()
    body = ModelCard(text).text
    assert body.count("<!-- hf_mpq") == body.count("<!-- end of hf_mpq -->") == 1
    assert not set("\x1b\u202e") & set(body) and "import os" not in body
    seen = re.sub("<!--.*?-->", "", body, flags=re.DOTALL)
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(seen)
    assert "<script" not in html and html.count("<pre>") == 2 and html.count("<table>") == 2
    compile(text.split("```python\n")[1].split("\n```")[0], "the snippet", "exec")


def test_checkpoints_are_not_pushed(tmp_path):
    """The token of a run is in none, and would not go with a model either."""
    packed(tmp_path)
    for name in ("optimizer.pt", "trainer_state.json", "rng_state.pth"):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=rf"is a checkpoint of a run \(it holds {name}\)"):
            push(tmp_path, "me/x", token="hf_any")
        (tmp_path / name).unlink()
    names = ["config.json", "training_args.bin", ".hf_mpq.json", "2_Dense/pytorch_model.bin", "a/training_args.bin"]
    kept = list(filter_repo_objects(names, ignore_patterns=list(IGNORED)))
    assert kept == ["config.json", "2_Dense/pytorch_model.bin"]


def test_saving_can_push(tmp_path):
    model = packed(tmp_path / "model")
    with pytest.raises(ConnectionError, match="cannot push to me/x while HF_HUB_OFFLINE is set"):
        model.save_pretrained(tmp_path / "again", push_to_hub=True, repo_id="me/x", token="hf_any")
    assert reload(tmp_path / "again")


def test_pushing_belongs_to_the_model(tmp_path):
    """A copy pushes itself, and a float model as transformers does."""
    model = packed(tmp_path)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), reload(tmp_path)):
        assert twin.push_to_hub.args == (twin,)
    assert model.dequantize().push_to_hub.__func__ is type(model).push_to_hub


def test_what_cannot_be_pushed(tmp_path):
    (tmp_path / "float").mkdir()
    tiny_model("bert").save_pretrained(tmp_path / "float")
    for folder in (tmp_path, tmp_path / "float"):
        with pytest.raises(ValueError, match="holds no model of hf_mpq"):
            push(folder, "me/x", token="hf_any")
    packed(tmp_path / "packed")
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):
        push(tmp_path / "packed", "me/x", token="hf_any")


def test_data_sets_of_the_hub_are_named():
    info = DatasetInfo(builder_name="glue", config_name="sst2")
    rows = Dataset.from_dict({"a": [1]}, info=info, split=NamedSplit("validation"))
    assert dataset_facts(rows) == {"dataset": "glue", "dataset_config": "sst2", "dataset_split": "validation"}
    assert dataset_facts(Dataset.from_dict({"a": [1]})) == {} and dataset_facts(None) == {}


def test_the_packed_model_answers_as_before(tmp_path):
    """Writing a card changes nothing in the model that it is about."""
    model = packed(tmp_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    write_card(tmp_path, model=model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
