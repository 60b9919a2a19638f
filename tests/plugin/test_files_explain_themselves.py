"""`config.json` holds all that a folder needs, whatever methods are registered, and whatever they say by then."""

import json
from dataclasses import fields, replace

import pytest

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import METHODS, MethodSpec
from tests.plugin.models import close, read_config, reload
from tests.tiny import outputs, tiny_model

EMPTY = {
    "method",
    "assignment",
    "resolved",
    "input_affine",
    "shapes",
    "packed",
    "origin",
    "inside",
    "transforms",
    "order",
    "precision",
    "patterns",
    "shape",
}
"""Fields that may have nothing to say."""


def through_json(config: MPQConfig) -> dict:
    return json.loads(json.dumps(config.to_dict()))


@pytest.fixture
def mine(monkeypatch):
    """A method of a user's own, until the test forgets it."""
    monkeypatch.setattr(METHODS, "_items", dict(METHODS._items))
    fields = {"bits": (2, 4), "groups": 5, "quantizer": "minmax", "activation_bits": 6, "rules": {"key": {"bits": 3}}}
    METHODS.add("mine", MethodSpec("mine", "nobody, nowhere, never", fields))
    yield
    METHODS._items.pop("mine", None)


@pytest.mark.parametrize("method", [None, *METHODS])
def test_every_field_is_written(method, monkeypatch):
    """Read back without the method, and with another one of its name."""
    config = MPQConfig(method=method, activation_bits=5)
    written = through_json(config)
    assert {field.name for field in fields(MPQConfig)} - EMPTY <= set(written)
    if method is not None:
        config_of_other = {"bits": 8, "groups": 3, "quantizer": "lsq", "transforms": {"unit-rows": {}}}
        other = replace(METHODS[method], config=config_of_other)
        for known in ({}, {method: other}):
            monkeypatch.setattr(METHODS, "_items", known)
            assert vars(MPQConfig.from_dict(written)) == vars(config)


@pytest.mark.parametrize("storage", ["trainable", "packed"])
def test_a_folder_loads_where_its_method_is_not_known(storage, mine, tmp_path):
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(method="mine"))
    if storage == "packed":
        hf_mpq.pack(model)
    model.save_pretrained(tmp_path)
    METHODS._items.pop("mine")
    again = reload(tmp_path)
    close(outputs(model), outputs(again), 0 if storage == "trainable" else 1e-5)
    again.save_pretrained(tmp_path / "again")
    assert read_config(tmp_path / "again")["quantization_config"] == read_config(tmp_path)["quantization_config"]
    with pytest.raises(ValueError, match="unknown method 'mine'"):
        MPQConfig(method="mine", bits=4)


@pytest.mark.parametrize("storage", ["trainable", "packed"])
@pytest.mark.parametrize("method", [None, "aq-bert", "q-bert"])
def test_files_that_leave_fields_out_load_as_ever(method, storage, tmp_path):
    """As earlier versions wrote them: without what equals the defaults, or the method's fields."""
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(method=method, scale_dtype="float32"))
    if storage == "packed":
        hf_mpq.pack(model)
    model.save_pretrained(tmp_path)
    content = read_config(tmp_path)
    usual = through_json(MPQConfig(method=method))
    always = ("quant_method", "storage", "format_version", "method")
    short = {
        key: value for key, value in content["quantization_config"].items() if key in always or usual.get(key) != value
    }
    assert len(short) < len(content["quantization_config"]) - 10
    (tmp_path / "config.json").write_text(json.dumps({**content, "quantization_config": short}))
    close(outputs(model), outputs(reload(tmp_path)), 0 if storage == "trainable" else 1e-5)


def test_what_auto_means_is_written(tmp_path):
    """A number, for the same reason."""
    hf_mpq.quantize(tiny_model("bert"), MPQConfig()).save_pretrained(tmp_path)
    assert read_config(tmp_path)["quantization_config"]["embedding_bits"] == 8


def test_changes_on_the_way_are_checked():
    """As all else that a config is made of."""
    written = through_json(MPQConfig(bits=4))
    assert MPQConfig.from_dict(written, bits=[4, 2]).bits == (2, 4)
    with pytest.raises(ValueError, match=r"bits must be whole numbers from 0 .* to 8, got 99"):
        MPQConfig.from_dict(written, bits=99)
    with pytest.raises(ValueError, match="several precisions"):
        MPQConfig.from_dict(written, nested=True)
