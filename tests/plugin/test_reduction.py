"""A shape in a config: the float model is reduced first, for every method and way to quantize it."""

import copy

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import Reduction
from hf_mpq.nn.layer_choice import LAYER_RULES, influences
from hf_mpq.nn.reshape import sizes_of
from hf_mpq.plugin.reshape import whole_model
from tests.tiny import FAMILIES, MOST, tiny_batch, tiny_model

SHAPE = "layers:2,hidden:16,rows:24"
FEW = [name if name == "modernbert" else pytest.param(name, marks=pytest.mark.full) for name in FAMILIES]


@torch.no_grad()
def logits(model, **more):
    return model.eval()(**tiny_batch(), **more).logits


@pytest.mark.parametrize("family", FEW)
def test_round_trip(family, tmp_path):
    model = tiny_model(family, num_hidden_layers=3) if family != "distilbert" else tiny_model(family, n_layers=3)
    before = logits(model)
    model.save_pretrained(tmp_path / "float")
    small = hf_mpq.quantize(model, MPQConfig(bits=4, shape=SHAPE))
    sizes = sizes_of(small)
    assert (sizes.layers, sizes.hidden, sizes.heads, sizes.rows) == (2, 16, 2, 24)
    assert torch.equal(logits(whole_model(small)), before)
    loaded = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "float", quantization_config=MPQConfig(bits=4, shape=SHAPE)
    )
    expected = logits(small)
    assert torch.equal(logits(loaded), expected)
    assert torch.equal(logits(whole_model(loaded)), before)
    small.save_pretrained(tmp_path / "trainable")
    assert torch.equal(logits(AutoModelForSequenceClassification.from_pretrained(tmp_path / "trainable")), expected)
    hf_mpq.pack(small).save_pretrained(tmp_path / "packed")
    packed = AutoModelForSequenceClassification.from_pretrained(tmp_path / "packed")
    assert torch.equal(logits(packed), logits(small)) and torch.allclose(logits(packed), expected, atol=1e-5)
    assert logits(hf_mpq.unpack(packed)).shape == expected.shape
    assert not {"shapes"} & packed.config.quantization_config.to_dict().keys()  # an ordinary config says it


def test_reshape_gives_an_ordinary_model(tmp_path):
    model = tiny_model("bert", num_hidden_layers=4)
    kept = copy.deepcopy(model.bert.encoder.layer[3].output.dense.weight)
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    assert hf_mpq.reshape(model, {"layers": [0, 3]}) is model
    assert torch.equal(model.bert.encoder.layer[1].output.dense.weight, kept)
    assert not model.bert.embeddings.word_embeddings.weight.requires_grad
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert torch.equal(logits(loaded), logits(model)) and not any(info.values())


def test_compress_reduces_and_chooses_by_examples():
    model = tiny_model("bert", num_hidden_layers=4)
    with torch.no_grad():
        for tensor in model.bert.encoder.layer[1].output.dense.parameters():
            tensor.mul_(30)
    found = influences(model, [tiny_batch()])
    best = max((1, 2, 3), key=found.__getitem__)
    assert LAYER_RULES["influence"](model, 2, [tiny_batch()]) == (0, best)
    before = logits(model)
    small = hf_mpq.compress(
        model,
        calibration=[tiny_batch()],
        config=MPQConfig(bits=8),
        shape="layers:2,choose:influence",
        rounding="nearest",
        progress=False,
    )
    expected = hf_mpq.reshape(copy.deepcopy(model), {"layers": [0, best]})
    weights = [one.bert.encoder.layer[1].attention.self.query.weight for one in (small, expected)]
    assert torch.equal(*weights)
    assert torch.equal(logits(model), before)
    assert small.config.quantization_config.shape == {"layers": 2, "choose": "influence"}
    with pytest.raises(ValueError, match="leave out one"):
        hf_mpq.compress(model, config=MPQConfig(bits=8, shape="layers:2"), shape="layers:1")


def test_ratios_are_of_the_reduced_model_and_drops_below_the_whole_one():
    model, seen = tiny_model("bert", num_hidden_layers=4), []

    def evaluate(one):
        seen.append(sizes_of(one).layers)
        return 1.0

    hf_mpq.compress(
        model,
        calibration=[tiny_batch()],
        config=MPQConfig(bits=(4, 8), shape="layers:2"),
        rounding="nearest",
        max_drop=1.0,
        evaluate=evaluate,
        progress=False,
    )
    assert seen.count(4) == 1 and set(seen) == {2, 4}


def test_rules():
    model = tiny_model("bert", num_hidden_layers=12)
    assert LAYER_RULES["even"](model, 6) == (0, 2, 4, 7, 9, 11)
    assert LAYER_RULES["first"](model, 3) == (0, 1, 2)
    assert LAYER_RULES["even"](model, 1) == (0,)


@pytest.mark.parametrize("family", MOST)
def test_a_model_of_these_sizes_stays(family):
    model = tiny_model(family)
    before = model.state_dict()
    hf_mpq.reshape(model, "layers:2,hidden:32,rows:56")
    assert all(one is before[name] or torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert whole_model(hf_mpq.quantize(model, MPQConfig(shape="layers:2"))) is None


@pytest.mark.parametrize("text", ["layers:4", "layers:0+2,rows:9", "hidden:8,heads:2,choose:first,layers:2"])
def test_written_forms(text):
    found = MPQConfig(shape=text)
    assert MPQConfig.from_dict(found.to_dict()).shape == found.shape == MPQConfig(shape=found.shape).shape
    assert Reduction.of(found.shape) == Reduction.of(text)


@pytest.mark.parametrize(
    "shape, words",
    [
        ("layers", "written as"),
        ("layers:four", "whole number"),
        ("layers:0", "from 1"),
        ("depth:3", "layers, hidden, heads, rows"),
        ("layers:2,layers:3", "written as"),
        ("rows:3+4", "one number for all layers"),
        ("choose:first", "names what changes"),
        ("layers:2,choose:best", "rule for layers"),
        (3, "written as"),
    ],
)
def test_unreadable_shapes(shape, words):
    with pytest.raises(ValueError, match=words):
        MPQConfig(shape=shape)


def test_what_does_not_fit_leaves_the_model():
    model = tiny_model("bert")
    before = logits(model)
    for shape, words in {
        "layers:3": "2 layers",
        "hidden:12": "multiple of 8",
        "layers:1,choose:influence": "needs examples",
    }.items():
        with pytest.raises(ValueError, match=words):
            hf_mpq.quantize(model, MPQConfig(shape=shape))
    assert torch.equal(logits(model), before) and not getattr(model, "is_quantized", False)
    with pytest.raises(ValueError, match="quantized already"):
        hf_mpq.reshape(hf_mpq.quantize(model, MPQConfig(bits=8)), "layers:1")
