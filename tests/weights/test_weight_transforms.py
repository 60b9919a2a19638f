"""Transforms of the float weight: said in a config, kept in files, trained, and gone when a model is packed."""

import json

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.format import PackedFormatError
from hf_mpq.nn.walk import matrices, set_rounding
from hf_mpq.weights import SOURCES, TRANSFORMS, WeightTransform
from hf_mpq.weights.sources import FloatMaster
from tests.plugin.models import close, reload
from tests.tiny import MOST, outputs, tiny_model
from tests.training.runs import quantized, trainer
from tests.weights.cases import LAYOUTS, weight_of


def everywhere(name: str) -> dict:
    """A config with a transform on every matrix, embeddings too."""
    return {"bits": 4, "transforms": {name: {}}, "rules": {".": {"transforms": {name: {}}}}}


@torch.no_grad()
def moved(model):
    """The model with every parameter of its transforms somewhere else."""
    generator = torch.Generator().manual_seed(0)
    for _, layer in matrices(model):
        for parameter in layer.program.transforms.parameters():
            parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("name", list(TRANSFORMS))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_starts_as_the_float_weight(layout, name):
    weight = weight_of(LAYOUTS[layout])
    weight[2] = 0
    transform = TRANSFORMS.make(name, LAYOUTS[layout].shape)
    with torch.no_grad():
        transform.initialise(weight)
    weight.requires_grad_()
    found = transform(weight)
    torch.testing.assert_close(found, weight, rtol=1e-6, atol=0)
    found.square().sum().backward()
    assert weight.grad.isfinite().all() and all(one.grad.isfinite().all() for one in transform.parameters())


def test_rows_have_the_learned_length_whatever_their_weights_are():
    transform = TRANSFORMS.make("unit-rows", (3, 4))
    transform.length.data.copy_(torch.tensor([1.0, 2.0, 0.5]))
    found = transform(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) * 7)
    torch.testing.assert_close(found.norm(dim=1), transform.length)
    torch.testing.assert_close(transform(3 * found), found)


@pytest.mark.parametrize("name", list(TRANSFORMS))
@pytest.mark.parametrize("family", MOST)
def test_it_is_saved_packed_and_unpacked(family, name, tmp_path):
    model = hf_mpq.quantize(tiny_model(family), MPQConfig(**everywhere(name)))
    assert all(name in layer.program.transforms for _, layer in matrices(model))
    close(outputs(model), outputs(hf_mpq.quantize(tiny_model(family), MPQConfig(bits=4))))
    before, packed_bytes = outputs(moved(model)), hf_mpq.size_report(model).total_bytes
    model.save_pretrained(tmp_path / "trainable")
    close(before, outputs(reload(tmp_path / "trainable")), 0)
    hf_mpq.pack(model).save_pretrained(tmp_path / "packed")
    packed = reload(tmp_path / "packed")
    close(before, outputs(packed))
    assert hf_mpq.size_report(packed).total_bytes == packed_bytes
    close(before, outputs(hf_mpq.unpack(packed)))
    close(before, outputs(hf_mpq.pack(packed)))


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_it_is_trained_and_the_default_teacher_is_the_float_model(name, tmp_path):
    model = quantized(transforms={name: {}}, mask="element")
    before = {key: one.clone() for key, one in model.named_parameters() if ".transforms." in key}
    run = trainer(model, tmp_path, max_steps=2, save_strategy="no")
    run.train()
    close(outputs(run._teacher), outputs(tiny_model("bert", num_hidden_layers=1)))
    after = dict(run.model.named_parameters())
    assert before and all(not torch.equal(one, after[key]) for key, one in before.items())


def test_it_is_in_the_file_only_where_it_was_given_and_is_signed(tmp_path):
    assert not {"transforms", "order"} & MPQConfig(bits=4).to_dict().keys()
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4, transforms={"Unit-Rows": {}}))
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    content = json.loads(file.read_text())
    assert content["quantization_config"]["transforms"] == {"unit-rows": {}}
    assert any("unit-rows" in line for line in content["quantization_config"]["resolved"])
    del content["quantization_config"]["transforms"]
    file.write_text(json.dumps(content))
    with pytest.raises(PackedFormatError, match="transforms"):
        reload(tmp_path)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"unit-row": {}}, "unknown weight transform 'unit-row'; did you mean 'unit-rows'"),
        ({"unit-rows": {"axis": 1}}, "unknown option of weight transform 'unit-rows': 'axis'"),
        (4, "transforms must map names to options"),
    ],
)
def test_what_is_misspelt_is_said_when_it_is_written(given, message):
    for fields in ({"transforms": given}, {"rules": {"query": {"transforms": given}}}):
        with pytest.raises(ValueError, match=message):
            MPQConfig(bits=4, **fields)


class Plus(WeightTransform):
    """Adds a constant, which is not where a float weight starts."""

    def forward(self, weight):
        return weight + 0.125


class Times(WeightTransform):
    def forward(self, weight):
        return weight * 2


def test_orders_that_decide_are_kept_in_files(tmp_path, monkeypatch):
    monkeypatch.setitem(TRANSFORMS._items, "z-plus", Plus)
    monkeypatch.setitem(TRANSFORMS._items, "times", Times)
    both = {"z-plus": {}, "times": {}}
    rules = {"query": {"bits": 8, "transforms": both}, "layer.0": {"bits": 3}, "key": {"transforms": {}}}
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4, transforms=both, rules=rules))
    layers = dict(matrices(model))
    for name in ("encoder.layer.1.output.dense", "encoder.layer.1.attention.self.query"):
        torch.testing.assert_close(layers[name].float_weight(), 2 * (layers[name].weight + 0.125))
    model.save_pretrained(tmp_path / "trainable")
    again = reload(tmp_path / "trainable")
    assert list(again.config.quantization_config.rules) == list(rules)
    close(outputs(model), outputs(again), 0)
    again.save_pretrained(tmp_path / "twice")
    close(outputs(model), outputs(reload(tmp_path / "twice")), 0)


def test_a_packed_model_is_loaded_where_its_parts_are_unknown(tmp_path, monkeypatch):
    monkeypatch.setitem(TRANSFORMS._items, "times", Times)
    monkeypatch.setitem(SOURCES._items, "own", type("Own", (FloatMaster,), {}))
    rules = {"query": {"transforms": {"times": {}}, "source": "own"}}
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4, transforms={"times": {}}, rules=rules))
    hf_mpq.pack(model).save_pretrained(tmp_path)
    before = outputs(model)
    del TRANSFORMS._items["times"], SOURCES._items["own"]
    close(before, outputs(reload(tmp_path)))


def test_a_float_stage_has_them_too():
    model = set_rounding(moved(quantized(transforms={"unit-rows": {}})), False)
    _, layer = next(one for one in matrices(model) if "encoder" in one[0])
    assert torch.equal(layer.coded_weight(), layer.float_weight()) and not torch.equal(
        layer.weight, layer.float_weight()
    )
