"""Features by hooks, alike in every family."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModel, GPT2Config

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn.families import family_of
from hf_mpq.nn.features import FEATURES, FeatureRecorder
from tests.tiny import FAMILIES, MOST, VOCABULARY, tiny_batch, tiny_model

INNER = [name for name in FEATURES if name != "hidden"]
UNSHARED = [name for name in FAMILIES if name != "albert"]


def recorded(model, names=FEATURES, batch=None):
    """Outputs and features of one forward pass."""
    recorder = FeatureRecorder(model, names)
    with recorder.recording() as features:
        outputs = model(**(tiny_batch() if batch is None else batch), output_hidden_states=True)
    recorder.remove()
    return outputs, features


def attention_inputs(model):
    """What each layer's query projection reads."""
    family, found = family_of(model), []
    hooks = [
        module.register_forward_pre_hook(lambda module, args: found.append(args[0]))
        for name, module in model.named_modules()
        if name.endswith("." + family.names.query)
    ]
    with torch.no_grad():
        model(**tiny_batch())
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_and_hidden_states(family, quantized):
    model = tiny_model(family, num_hidden_layers=3) if family != "distilbert" else tiny_model(family, n_layers=3)
    if quantized:
        hf_mpq.quantize(model, MPQConfig(bits=4, attention_bits=8))
    outputs, features = recorded(model)
    assert {name: len(kept) for name, kept in features.items()} == {"hidden": 4, **dict.fromkeys(INNER, 3)}
    assert {kept.shape for name in FEATURES for kept in features[name]} == {(3, 11, 32)}
    last = 3 if family == "modernbert" else 4  # ModernBERT lists its last state after a norm outside the layers
    for ours, theirs in zip(features["hidden"][:last], outputs.hidden_states[:last], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("family", MOST)
def test_projections_are_of_the_tokens_and_in_order(family):
    """Of DeBERTa's two calls the one over tokens; of a fused matrix the right third."""
    model = tiny_model(family)
    names, (_, features) = family_of(model).names, recorded(model)
    tokens = [x for x in attention_inputs(model) if x.shape[:2] == (3, 11)]
    prefixes = family_of(model).layer_prefixes(model)
    blocks = [model.base_model.get_submodule(prefix) for prefix in prefixes] * (2 // len(prefixes))
    for third, name in enumerate(("query", "key", "value")):
        for x, block, kept in zip(tokens, blocks, features[name], strict=True):
            layer = block.get_submodule(getattr(names, name))
            rows = slice(32 * third, 32 * (third + 1)) if names.fused else slice(None)
            bias = None if layer.bias is None else layer.bias[rows]
            torch.testing.assert_close(kept, nn.functional.linear(x, layer.weight[rows], bias))


def test_fused_thirds_are_what_attention_calls_query_key_and_value(monkeypatch):
    """Values and keys as ModernBERT hands them to the attention function; the first layer's queries at position 0 are
    not rotated."""
    from transformers.models.modernbert import modeling_modernbert

    seen = []
    plain = modeling_modernbert.eager_attention_forward

    def spy(module, query, key, value, *args, **kwargs):
        seen.append([x.transpose(1, 2).flatten(2) for x in (query, key, value)])
        return plain(module, query, key, value, *args, **kwargs)

    monkeypatch.setattr(modeling_modernbert, "eager_attention_forward", spy)
    model = tiny_model("modernbert", attn_implementation="eager")
    _, features = recorded(model)
    for layer, (query, key, value) in enumerate(seen):
        assert torch.equal(features["value"][layer], value)
        torch.testing.assert_close(features["query"][layer][:, 0], query[:, 0])
        torch.testing.assert_close(features["key"][layer][:, 0], key[:, 0])
    assert len(seen) == 2


@pytest.mark.parametrize("family", UNSHARED)
def test_attention_output_is_before_the_residual(family):
    model = tiny_model(family)
    path, found = family_of(model).names.output, []
    for prefix in family_of(model).layer_prefixes(model):
        layer = model.base_model.get_submodule(prefix).get_submodule(path)
        layer.register_forward_hook(lambda module, args, output: found.append(output))
    _, features = recorded(model)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(features["attention_output"], found, strict=True))


def gradients(model, names):
    """Of a sum over all features, by parameter; the features are those kept after the backward pass."""
    recorder = FeatureRecorder(model, names)
    with recorder.recording() as features:
        model(**tiny_batch())
        before = {name: list(kept) for name, kept in features.items()}
        sum(kept.square().mean() for name in names for kept in features[name]).backward()
    recorder.remove()
    assert {name: len(kept) for name, kept in features.items()} == {name: len(kept) for name, kept in before.items()}
    assert all(one is other for name in names for one, other in zip(features[name], before[name]))
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def save_activations(model, **options):
    """Activation checkpointing, under the name that this transformers has for it."""
    new = getattr(model, "activation_checkpointing_enable", None)
    (model.gradient_checkpointing_enable if new is None else new)(options)


@pytest.mark.parametrize("names", [FEATURES, ("hidden",), ("value",)], ids=["all", "hidden", "value"])
@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
@pytest.mark.parametrize("family", MOST)
def test_activation_checkpointing_changes_nothing(family, quantized, names):
    """Neither what is kept, even while still recording, nor its gradients."""
    model = tiny_model(family)
    if not model.supports_gradient_checkpointing:
        pytest.skip(f"{family} does not support activation checkpointing")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model = hf_mpq.quantize(model, MPQConfig(bits=4)) if quantized else model
    plain, saving = model.train(), copy.deepcopy(model).train()
    save_activations(saving, use_reentrant=False)
    expected, found = gradients(plain, names), gradients(saving, names)
    assert expected.keys() == found.keys() and len(expected) > 2
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_reentrant_checkpointing_is_refused():
    model = tiny_model("bert").train()
    save_activations(model, use_reentrant=True)
    model.enable_input_require_grads()
    with pytest.raises(ValueError, match=r"use_reentrant.: False"):
        recorded(model, ("value",))


def test_nothing_is_kept_outside_of_recording_or_of_a_copy():
    model = tiny_model("bert")
    recorder = FeatureRecorder(model, FEATURES)
    other = copy.deepcopy(model)
    with recorder.recording() as features:
        other(**tiny_batch())
        assert features == {}
        with torch.no_grad():
            model(**tiny_batch())
    model(**tiny_batch())
    assert len(features["hidden"]) == 3 and not features["hidden"][0].requires_grad


def test_a_failed_pass_leaves_the_recorder_usable():
    model = tiny_model("bert")
    recorder = FeatureRecorder(model, ("hidden", "query"))
    with pytest.raises(IndexError), recorder.recording():
        model(input_ids=torch.full((1, 4), VOCABULARY + 5))
    model(**tiny_batch())
    with recorder.recording() as features:
        model(**tiny_batch())
    assert len(features["hidden"]) == 3 and len(features["query"]) == 2


def test_removed_hooks_are_gone():
    model = tiny_model("bert")
    recorder = FeatureRecorder(model, FEATURES)
    recorder.remove()
    with recorder.recording() as features:
        model(**tiny_batch())
    assert features == {}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_other_models():
    gpt2 = AutoModel.from_config(GPT2Config(vocab_size=VOCABULARY, n_embd=8, n_layer=1, n_head=2, n_positions=40))
    with pytest.raises(ValueError, match=r"unknown features.*'keys'.*the known ones are: hidden, query"):
        FeatureRecorder(gpt2, ("keys",))
    with pytest.raises(ValueError, match="distil from logits only"):
        FeatureRecorder(gpt2, ("hidden",))
    assert recorded(gpt2, ())[1] == {}
