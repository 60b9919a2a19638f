"""Every published method runs in one call, and its spec names only parts that exist."""

from dataclasses import fields

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig, compress
from hf_mpq.core import METHODS, MethodSpec, Part
from hf_mpq.rounding import ROUNDERS
from hf_mpq.search import ALLOCATORS, SCORERS
from tests.tiny import FAMILIES, outputs, tiny_batch, tiny_model

pytestmark = pytest.mark.usefixtures("few_iterations")
BUDGETS = {
    "q-bert": "3bits",
    "hawq-v3": "6bits",
    "class-based": "3bits",
    "ghost": "4bits",
    "aq-bert": "2.5bits",
    "aq-bert+kd": "2.5bits",
    "mpq": "2.5bits",
    "channelwise": "3bits",
    "sdq": "2.5bits",
    "weight-coupling": "2.5bits",
    "fdq": "3bits",
    "csq": "3bits",
    "bsq": "3bits",
    "nxmiformer": "4bits",
    "channel-expansion": "1.8bits",
}
FIXED = {
    "bigger-faster",
    "zeroquant",
    "zeroquant-4-8",
    "q8",
    "uniform",
    "vertical",
    "lq-nets",
    "hyperspherical",
    "prune-ofa",
    "prune-ofa-pretrain",
}
QUICK = {
    "q-bert": {"scorer": {"name": "hessian", "measure": "eigenvalue", "per": "layer", "splits": 2}},
    "hawq-v3": {"scorer": {"name": "hessian", "draws": 2}},
    "nxmiformer": {"allocator": {"name": "schemes", "measured": 4}},
    "zeroquant-4-8": {"rounding": {"name": "lkd", "steps": 3}},
}


def compressed(name: str, family: str, **more):
    model = tiny_model(family)
    budget = None if name in FIXED else BUDGETS[name]
    return compress(model, budget, [tiny_batch()], method=name, progress=False, **QUICK.get(name, {}), **more)


@pytest.mark.parametrize("name", list(METHODS))
def test_a_spec_names_parts_that_exist(name):
    spec = METHODS[name]
    assert spec.name == name and spec.paper and spec.deviations
    assert spec.scorer is None or spec.scorer in SCORERS
    assert spec.allocator is None or spec.allocator in ALLOCATORS
    assert spec.rounding is None or spec.rounding in ROUNDERS
    assert set(spec.config) <= {field.name for field in fields(MPQConfig)}
    saved = MPQConfig.from_dict(MPQConfig(method=name).to_dict())
    for key, value in spec.config.items():
        assert value == (saved.part(key) if isinstance(value, Part) else getattr(saved, key))


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("family", ["bert", "modernbert", "albert"])
def test_every_method_compresses_and_packs(name, family, tmp_path):
    model = compressed(name, family)
    if name in BUDGETS:
        assert hf_mpq.size_report(model).average_bits <= float(BUDGETS[name].removesuffix("bits"))
    expected = outputs(model)[0]
    hf_mpq.pack(model).save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.config.quantization_config.method == name
    torch.testing.assert_close(outputs(again)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.full
@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ("bert", "modernbert", "albert")])
def test_every_method_in_every_family(name, family):
    assert torch.isfinite(outputs(compressed(name, family))[0]).all()


def test_hawq_gives_each_matrix_one_precision_and_ties_query_to_key():
    found = hf_mpq.assignment_of(compressed("hawq-v3", "bert")).matrices
    encoder = {name: matrix.bits for name, matrix in found.items() if name.startswith("encoder.")}
    assert all(len(set(bits)) == 1 for bits in encoder.values())
    for layer in (0, 1):
        query, key = (encoder[f"encoder.layer.{layer}.attention.self.{name}"] for name in ("query", "key"))
        assert query == key


def test_q_bert_gives_whole_layers_one_precision():
    found = hf_mpq.assignment_of(compressed("q-bert", "bert")).matrices
    for layer in (0, 1):
        bits = {b for name, matrix in found.items() if f"layer.{layer}." in name for b in matrix.bits}
        assert len(bits) == 1
    assert {b for name, matrix in found.items() if "layer." in name for b in matrix.bits} == {2, 4}


def test_ghost_gives_an_input_the_bits_of_its_matrix():
    found = hf_mpq.assignment_of(compressed("ghost", "bert"))
    encoder = {name: matrix.bits[0] for name, matrix in found.matrices.items() if name.startswith("encoder.")}
    assert {name: found.activation_bits[name] for name in encoder} == encoder


def test_zeroquant_has_its_bits_without_a_budget():
    found = hf_mpq.assignment_of(compressed("zeroquant-4-8", "bert")).matrices
    assert set(found["encoder.layer.0.attention.output.dense"].bits) == {8}
    assert set(found["encoder.layer.0.output.dense"].bits) == {4}
    assert set(found["encoder.layer.1.intermediate.dense"].bits) == {4}


def test_what_is_said_wins_over_the_method():
    config = MPQConfig(method="q-bert", bits=(2, 3), groups="channel")
    assert config.bits == (2, 3) and config.groups == "channel" and config.quantizer == "minmax"
    assert MPQConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


def test_options_of_a_method_go_with_its_part():
    """Another part in its place has none of them; the same one keeps them."""
    assert MPQConfig(method="channelwise", quantizer="lsq").part("quantizer") == Part("lsq")
    other = MPQConfig(method="fdq", activation="dynamic-token", gate="softmax")
    assert other.part("activation") == Part("dynamic-token") and other.part("gate") == Part("softmax")
    assert other.part("quantizer") == Part("learned-range", gradient="ewgs")
    assert MPQConfig(method="fdq", quantizer="learned-range").part("quantizer") == other.part("quantizer")
    assert MPQConfig.from_dict(other.to_dict()).to_dict() == other.to_dict()


def test_unknown_and_taken_names():
    with pytest.raises(ValueError, match=r"unknown method 'guess'; the known ones are: .*zeroquant"):
        MPQConfig(method="guess")
    with pytest.raises(ValueError, match="already registered"):
        METHODS.add("ghost", MethodSpec("ghost", "another"))
    assert METHODS.add("ghost", METHODS["ghost"]) is METHODS["ghost"]
