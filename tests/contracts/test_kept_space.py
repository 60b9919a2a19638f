"""The space of a model is made once, when it is quantized, and is what making it again would give."""

import copy
from dataclasses import replace

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.plugin import config as config_module
from hf_mpq.plugin.space import space_of
from tests.plugin.models import mixed_assignment
from tests.tiny import MOST, tiny_batch, tiny_model
from tests.training.runs import quantized, trainer

CONFIGS = {
    "open": {"bits": (0, 2, 4), "groups": 10, "activation_bits": 8},
    "fixed": {"bits": 4, "activation_bits": 8, "attention_bits": 8},
    "nested": {"bits": (2, 4), "nested": True, "switchable_norms": True},
    "rules": {"bits": (2, 4), "groups": 4, "low_rank": 2, "rules": {"layer.0": {"bits": 8}, "classifier": {"bits": 4}}},
}


@pytest.fixture
def resolved(monkeypatch):
    """Every call of `resolve`, with the config as it was and as it is."""
    calls, plain = [], config_module.resolve

    def counted(config, model):
        before = copy.deepcopy(config)
        space = plain(config, model)
        calls.append((before, config))
        return space

    monkeypatch.setattr(config_module, "resolve", counted)
    return calls


def same(kept, made):
    """But for what only latencies need, which is of the float model in one and of the quantized one in the other."""
    return replace(kept, architecture={}) == replace(made, architecture={})


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("family", MOST)
def test_the_kept_space_is_the_one_that_would_be_made(family, name, tmp_path):
    """After quantizing, fixing, packing and unpacking, in copies, and from either kind of folder."""
    model = hf_mpq.quantize(tiny_model(family), MPQConfig(**CONFIGS[name]))
    assert model.hf_quantizer.space is space_of(model)
    assert same(space_of(model), model.config.quantization_config.resolve(tiny_model(family)))
    model.save_pretrained(tmp_path / "open")
    assert space_of(copy.deepcopy(model)) is space_of(model)
    if name == "open":
        hf_mpq.fix(model, mixed_assignment(tiny_model(family), MPQConfig(**CONFIGS[name]), (0, 2, 4)))
        assert same(space_of(model), model.config.quantization_config.resolve(tiny_model(family)))
    again = type(model).from_pretrained(tmp_path / "open")
    assert again.hf_quantizer.space is space_of(again)
    assert same(space_of(again), again.config.quantization_config.resolve(tiny_model(family)))
    hf_mpq.nn.calibrate_activations(model, [tiny_batch()])
    kept = space_of(hf_mpq.pack(model))
    assert kept is model.hf_quantizer.space
    model.save_pretrained(tmp_path / "packed")
    assert same(kept, space_of(type(model).from_pretrained(tmp_path / "packed")))
    hf_mpq.unpack(model)
    assert same(space_of(model), model.config.quantization_config.resolve(tiny_model(family)))


def test_a_model_that_was_changed_around_its_layers_has_a_space_of_its_own():
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4))
    before = space_of(model)
    model.classifier = torch.nn.Linear(model.config.hidden_size, 7)
    assert space_of(model).other_bytes > before.other_bytes
    model.classifier.to(torch.bfloat16)
    assert hf_mpq.size_report(model).total_bytes > 0 and space_of(model).other_bytes < before.other_bytes + 7 * 4 * 33


def test_resolving_changes_nothing(resolved):
    config = MPQConfig(bits=(2, 4))
    config.resolve(tiny_model("bert"))
    assert resolved[0][0] == config and not config.resolved


@pytest.mark.parametrize("method, bits", [("mpq", None), ("uniform", 4)])
def test_a_whole_run_resolves_once(method, bits, resolved, tmp_path):
    """Quantizing, both stages, their selection, packing and the report."""
    changes = {"budget": "3bits"} if bits is None else {"bits": bits}
    run = trainer(quantized(method, **changes), tmp_path, max_steps=4, save_strategy="no", selection_steps=1)
    run.train()
    hf_mpq.size_report(hf_mpq.pack(run.model))
    space_of(run.model)
    assert len(resolved) == 1
