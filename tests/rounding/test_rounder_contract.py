"""What every rounder keeps, in every family."""

import copy

import pytest
import torch
from torch import nn

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn import MPQLinear, PackedLinear
from hf_mpq.nn.walk import matrices
from hf_mpq.rounding import ROUNDERS, correct_biases
from tests.rounding.models import QUICK, batches, mixed, output_error, quantized, same, state_of, weights_of
from tests.tiny import HEADS, MOST, outputs, tiny_model


def rounder(name: str, **options):
    return ROUNDERS[name](**{**QUICK.get(name, {}), **options})


def untouched(model) -> bool:
    modules = list(model.modules())
    hooks = any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    return not hooks and not any("quantized_weight" in vars(module) for module in modules)


@pytest.mark.parametrize("name", list(ROUNDERS))
@pytest.mark.parametrize("family", MOST)
def test_what_was_chosen_is_what_is_packed(family, name):
    reference = tiny_model(family)
    before = state_of(reference)
    model = mixed(reference)
    rounder(name).round(model, reference, batches(1))
    assert untouched(model) and untouched(reference) and same(state_of(reference), before)
    weights, values = weights_of(model), outputs(model)
    hf_mpq.pack(model)
    packed = dict(matrices(model, PackedLinear))
    assert packed.keys() == weights.keys()
    assert all(torch.equal(packed[key].weight, weight) for key, weight in weights.items())
    for a, b in zip(values, outputs(model)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", list(ROUNDERS))
@pytest.mark.parametrize("head", HEADS)
def test_every_head(head, name):
    reference = tiny_model("bert", head)
    model = mixed(reference, activation_bits=None, attention_bits=None, prune="intermediate")
    rounder(name).round(model, reference, batches(1))
    correct_biases(model, reference, batches(1))
    values = outputs(model)
    for a, b in zip(values, outputs(hf_mpq.pack(model))):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", list(ROUNDERS))
@pytest.mark.parametrize("family", ["bert", "albert"])
def test_same_seed_same_weights(family, name):
    reference = tiny_model(family)
    first, second = mixed(reference), mixed(reference)
    for model in (first, second):
        rounder(name).round(model, reference, batches(2))
        torch.manual_seed(99)
    assert same(state_of(first), state_of(second))


@pytest.mark.parametrize("name", list(ROUNDERS))
def test_modes_and_gradients_are_left_as_they_were(name):
    reference = tiny_model("bert").train()
    model = mixed(reference).train()
    model.bert.embeddings.eval()
    frozen, marked = model.bert.encoder.layer[0].output.dense.weight, model.bert.encoder.layer[1].output.dense.weight
    frozen.requires_grad_(False)
    marked.grad = torch.ones_like(marked)
    required = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
    with torch.no_grad():
        rounder(name).round(model, reference, batches(1))
    assert required == {key: parameter.requires_grad for key, parameter in model.named_parameters()}
    assert torch.equal(marked.grad, torch.ones_like(marked))
    assert all(parameter.grad is None for parameter in model.parameters() if parameter is not marked)
    assert all(parameter.grad is None for parameter in reference.parameters())
    assert model.training and reference.training and not model.bert.embeddings.training
    assert model.bert.encoder.layer[0].training and reference.bert.embeddings.training


@pytest.mark.parametrize("name", [name for name in ROUNDERS if ROUNDERS[name].needs_data])
def test_no_examples_is_an_error(name):
    reference = tiny_model("bert")
    with pytest.raises(ValueError, match="no calibration examples"):
        rounder(name).round(mixed(reference), reference, [])
    with pytest.raises(ValueError, match="no calibration examples"):
        correct_biases(mixed(reference), reference, [])


@pytest.mark.parametrize("name", ["gptq", "autoround"])
@pytest.mark.parametrize(
    "options", [{"quantizer": "minmax"}, {"bits": (2, 4, 8), "nested": True}], ids=["minmax", "nested"]
)
def test_quantizers_without_fixed_grids_are_refused(options, name):
    reference = tiny_model("bert")
    model = quantized(reference, **options)
    before = state_of(model)
    with pytest.raises(ValueError, match="use quantizer='symmetric' or 'lsq'"):
        rounder(name).round(model, reference, batches(1))
    assert same(state_of(model), before)


def test_distillation_takes_any_quantizer():
    reference = tiny_model("bert")
    model = quantized(reference, quantizer="minmax", bits=4)
    before = weights_of(model)
    rounder("lkd", lr=1e-2).round(model, reference, batches(1))
    assert not same(weights_of(model), before)


@pytest.mark.parametrize("name", [name for name in ROUNDERS if ROUNDERS[name].needs_data])
def test_open_gates_are_refused(name):
    reference = tiny_model("bert")
    with pytest.raises(ValueError, match="still searched"):
        rounder(name).round(quantized(reference, bits=(2, 4)), reference, batches(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_masters(dtype):
    reference = tiny_model("bert", num_hidden_layers=1).to(dtype)
    for name in ("gptq", "autoround"):
        model = mixed(reference)
        rounder(name).round(model, reference, batches(1))
        weights = weights_of(model)
        hf_mpq.pack(model)
        assert all(torch.equal(layer.weight, weights[key]) for key, layer in matrices(model, PackedLinear))
    with pytest.raises(ValueError, match="float32"):
        rounder("lkd").round(mixed(reference), reference, batches(1))


@pytest.mark.parametrize("name", ["gptq", "autoround"])
def test_masks_columns_and_other_quantizers(name):
    reference = tiny_model("bert", num_hidden_layers=1)
    for options in (
        {"quantizer": "lsq", "quantizer_options": {"two_bits": "integer"}, "mask": "element"},
        {"quantizer_options": {"two_bits": "ternary"}, "mask": "n:m"},
        {"groups": "columns:5"},
        {"scale_dtype": "float32", "groups": "channel", "activation": "static"},
    ):
        model = mixed(reference, **options)
        hf_mpq.nn.calibrate_activations(model, batches(1))
        rounder(name).round(model, reference, batches(1))
        weights = weights_of(model)
        hf_mpq.pack(model)
        assert all(torch.equal(layer.weight, weights[key]) for key, layer in matrices(model, PackedLinear))


def test_shifted_and_scaled_inputs():
    reference = tiny_model("bert", num_hidden_layers=1)
    model = quantized(reference, bits=3, activation_bits=4)
    for _, layer in matrices(model, MPQLinear):
        inputs = layer.in_features
        layer.set_input_affine(torch.linspace(0.5, 2, inputs), torch.linspace(-0.1, 0.1, inputs))
        layer.calibrate()
    before = output_error(model, reference, batches(1))
    ROUNDERS["gptq"](asymmetric=True).round(model, reference, batches(3))
    correct_biases(model, reference, batches(1))
    assert output_error(model, reference, batches(1)) < before
    weights = weights_of(model)
    hf_mpq.pack(model)
    assert all(torch.equal(layer.weight, weights[key]) for key, layer in matrices(model, PackedLinear))


@pytest.mark.parametrize("name", list(ROUNDERS))
def test_unknown_families(name):
    reference = tiny_model("bert")
    reference.config.model_type = "unknown"
    model = hf_mpq.quantize(copy.deepcopy(reference), MPQConfig(bits=3, groups=7))
    before = weights_of(model)
    rounder(name, **({"lr": 1e-2} if name == "lkd" else {})).round(model, reference, batches(1))
    assert same(weights_of(model), before) == (name == "nearest")
    assert all(isinstance(name, str) and rounder(name).forward_passes(model, batches(3)) >= 0 for name in ROUNDERS)


def test_options_are_checked():
    with pytest.raises(ValueError, match="order"):
        ROUNDERS["gptq"](order="random")
    with pytest.raises(ValueError, match="iterations"):
        ROUNDERS["autoround"](iterations=0)


def test_a_model_that_is_wholly_pruned():
    reference = tiny_model("bert")
    for name in ROUNDERS:
        model = hf_mpq.quantize(copy.deepcopy(reference), MPQConfig(bits=0))
        rounder(name).round(model, reference, batches(1))
        assert isinstance(model.classifier, nn.Linear) and outputs(model)
