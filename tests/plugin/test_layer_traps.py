"""Traps in the layers themselves: biases, ties, position tables, and rows pruned unevenly."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hf_mpq
from hf_mpq import Assignment, MPQConfig
from hf_mpq.core import MatrixAssignment
from hf_mpq.nn import MPQEmbedding, MPQLayerNorm, MPQTiedLinear, PackedTiedLinear
from hf_mpq.nn.walk import matrices
from tests.plugin.models import close, differ, mixed_model, read_tensors, reload, stored_model
from tests.tiny import MOST, outputs, tiny_batch, tiny_model


@pytest.mark.parametrize("family", MOST)
def test_biases_are_never_quantized_as_weights(family):
    """Quantizers that match parameters by name meet 1-D biases: ours keep them, rounded to float16 and no further."""
    plain = {name: p.clone() for name, p in tiny_model(family).named_parameters()}
    model = hf_mpq.quantize(tiny_model(family), MPQConfig(bits=2, groups=10))
    layers = dict(matrices(model))
    biases = {hf_mpq.nn.absolute_name(model, name): layer.bias for name, layer in layers.items() if layer.spec.bias}
    assert all(len(layer.spec.layout.shape) == 2 for layer in layers.values())
    for name, bias in biases.items():
        assert torch.equal(bias, plain[f"{name}.bias"])
    hf_mpq.pack(model)
    for name in biases:
        assert torch.equal(model.get_submodule(name).bias, plain[f"{name}.bias"].half().float())
    assert bool(biases) == (family != "modernbert"), "ModernBERT has no biases in its encoder"


def test_layers_without_biases_store_none(tmp_path):
    """ModernBERT's linear layers and norms have no bias, and none appears on the way."""
    stored_model("packed", "modernbert").save_pretrained(tmp_path)
    assert not [name for name in read_tensors(tmp_path) if "bias_values" in name or "live_rows" in name]
    assert all(layer.bias is None for _, layer in matrices(reload(tmp_path), hf_mpq.nn.PackedLinear))


@pytest.mark.parametrize("family", MOST)
def test_decoder_is_not_saved_beside_its_table(family, tmp_path):
    """A packed table is no parameter to tie: the decoder reads its codes and saves only its bias."""
    model = mixed_model(family, "masked")
    decoder, name = model.get_output_embeddings(), _output_name(model)
    bias_names = {key for key, value in model.state_dict(keep_vars=True).items() if value is decoder.bias}
    hf_mpq.pack(model).save_pretrained(tmp_path)
    saved = read_tensors(tmp_path)
    own = {key.removeprefix(f"{name}.") for key in saved if key.startswith(f"{name}.")}
    assert own <= {"bias"} and any(torch.equal(saved[key], decoder.bias) for key in bias_names & set(saved))
    again = reload(tmp_path, "masked").get_output_embeddings()
    assert isinstance(again, PackedTiedLinear) and torch.equal(again.bias, decoder.bias)
    assert torch.equal(again.weight, model.get_input_embeddings().weight)


def _output_name(model) -> str:
    return next(name for name, module in model.named_modules() if module is model.get_output_embeddings())


@pytest.mark.parametrize("family", MOST)
def test_trainable_decoder_uses_the_quantized_table(family):
    """The decoder shares the float master, and must see the table as it will ship."""
    model = hf_mpq.quantize(tiny_model(family, "masked"), MPQConfig(bits=8, embedding_bits=2))
    table, decoder = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(table, MPQEmbedding) and isinstance(decoder, MPQTiedLinear) and decoder.weight is table.weight
    hidden = torch.randn(3, table.embedding_dim)
    assert torch.equal(decoder(hidden), F.linear(hidden, table.quantized_weight(), decoder.bias))
    assert differ([decoder(hidden)], [F.linear(hidden, table.weight, decoder.bias)], 0.01)
    model.tie_weights()
    assert decoder.weight is table.weight and model.get_output_embeddings() is decoder
    decoder(hidden).square().sum().backward()
    assert table.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("storage", ["trainable", "packed"])
@pytest.mark.parametrize("family", MOST)
def test_resizing_a_quantized_table_is_refused(family, storage):
    """Sub-groups and scales belong to the old rows: a resized table would be saved and could not be loaded."""
    model = stored_model(storage, family, "masked")
    with pytest.raises((TypeError, ValueError), match="resize"):
        model.resize_token_embeddings(101)
    plain = stored_model(storage, family, "masked").dequantize()
    plain.resize_token_embeddings(101)
    assert outputs(hf_mpq.quantize(plain, MPQConfig()))[0].shape[-1] == 101


@pytest.mark.parametrize("storage", ["trainable", "packed"])
@pytest.mark.parametrize("family", ["deberta-v2", "mpnet"])
def test_position_tables_stay_float(family, storage):
    """`rel_embeddings` and `relative_attention_bias` are read as `.weight`, past any fake-quantization."""
    table = "encoder.rel_embeddings" if family == "deberta-v2" else "encoder.relative_attention_bias"
    plain = tiny_model(family, "bare").get_submodule(table).weight
    model = stored_model(storage, family, "bare")
    assert type(model.get_submodule(table)) is nn.Embedding
    assert torch.equal(model.get_submodule(table).weight, plain)


@pytest.mark.parametrize("family", MOST)
def test_norms_are_trained_as_they_are_stored(family, tmp_path):
    """Norms are stored in float16, so that their parameters are rounded to it in training already."""
    model = tiny_model(family)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name.lower():
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    plain = copy.deepcopy(model)
    hf_mpq.quantize(model, MPQConfig(bits=8, activation_bits=None, groups="channel"))
    trained, norms = outputs(model), dict(matrices(model, MPQLayerNorm))
    assert len(norms) >= 3
    hf_mpq.pack(model).save_pretrained(tmp_path)
    again = reload(tmp_path)
    close(trained, outputs(model), 1e-6)
    close(trained, outputs(again), 1e-6)
    for name, norm in norms.items():
        full = hf_mpq.nn.absolute_name(again, name)
        assert torch.equal(again.get_submodule(full).weight, plain.get_submodule(full).weight.half().float())
        assert torch.equal(norm.weight, plain.get_submodule(full).weight), "the master keeps its precision"


@pytest.mark.parametrize("family", MOST)
def test_rows_pruned_unevenly_in_heads(family, tmp_path):
    """BERT views heads as `(-1, head size)`, so query, key and value give full-width rows whatever was pruned."""
    model = tiny_model(family)
    space, generator = MPQConfig(groups="channel").resolve(model), torch.Generator().manual_seed(3)
    bits = {name: torch.full((spec.layout.count,), 8) for name, spec in space.weights.items()}
    for name in (name for name, spec in space.weights.items() if spec.role == "encoder"):
        bits[name] *= torch.rand(len(bits[name]), generator=generator) > 0.3
    assert all(_kept_in_heads(link, bits) > 1 for link in space.links if link.kind == "value")
    assignment = Assignment({name: MatrixAssignment(tuple(values.tolist())) for name, values in bits.items()})
    config = MPQConfig(groups="channel", assignment=assignment)
    hf_mpq.quantize(model, config)
    trained = outputs(model)
    hf_mpq.pack(model).save_pretrained(tmp_path)
    close(trained, outputs(model))
    close(outputs(model), outputs(reload(tmp_path)), 0)
    assert model(**tiny_batch()).logits.isfinite().all()


def _kept_in_heads(link, bits: dict[str, torch.Tensor]) -> int:
    """How many different numbers of rows the heads keep."""
    block = link.blocks[0]
    rows = bits[block.name][block.start : block.start + block.count].view(link.heads, -1)
    return len(set((rows > 0).sum(1).tolist()))
