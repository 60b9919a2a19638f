"""The families that are variations of others: once each, with what a family claims; every width and export in the full
run."""

import sys

import pytest
import torch
from safetensors import safe_open
from torch.nn.functional import cosine_similarity

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.exporters import base
from hf_mpq.nn import absolute_name, family_of
from hf_mpq.nn.packed import PackedEmbedding, PackedLinear
from hf_mpq.nn.walk import matrices
from hf_mpq.runtime import BACKENDS, CompactLinear
from tests.contracts.test_families import close, mixed_config
from tests.contracts.test_folding import pruned_assignment
from tests.tiny import MORE, batch_for, head_class, heads_of, outputs, tiny_model

every = pytest.mark.parametrize("family", MORE)
_DISTINCT = ("megatron-bert", "deberta", "nomic_bert", "eurobert", "gemma3_text", "t5")
distinct = pytest.mark.parametrize(
    "family", [name if name in _DISTINCT else pytest.param(name, marks=pytest.mark.full) for name in MORE]
)
"""Families that differ in how their heads and rows are cut run always, the others in the full run."""
CLOSE = 0.05
"""Of the largest output: here and there, a level of an input rounds the other way."""
SERVED = ("cpu-float", "cpu-int8", "cpu-native", "auto")
GRAPHS = [name for name in MORE if name != "longformer"]
FLOAT = {
    "activation_bits": None,
    "embedding_bits": None,
    "projection_bits": None,
    "float_dtype": "float32",
    "scale_dtype": "float32",
}


def real(values, batch):
    """Of hidden states, those of real tokens: cpu-native gives no others."""
    mask = batch["attention_mask"].bool()
    return [value[mask] if value.shape[:2] == mask.shape else value for value in values]


def alike(expected, found, batch, share):
    """Within a share of the largest output."""
    expected, found = real(expected, batch), real(found, batch)
    assert len(expected) == len(found) > 0
    for a, b in zip(expected, found):
        torch.testing.assert_close(b, a, rtol=0, atol=share * float(a.abs().max()))


def served(model, batch, backends):
    """The outputs of each backend that runs here."""
    for backend in backends:
        if backend == "auto" or BACKENDS[backend].unavailable(model) is None:
            yield outputs(hf_mpq.prepare(model, backend), batch)


def check(family, head, config, folder, backends):
    model, batch = tiny_model(family, head), batch_for(family)
    plain = outputs(model, batch)
    hf_mpq.quantize(model, config(model))
    trained = outputs(model, batch)
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(plain, trained))
    hf_mpq.pack(model)
    close(trained, outputs(model, batch))
    model.save_pretrained(folder)
    again = head_class(family, head).from_pretrained(folder)
    close(outputs(model, batch), outputs(again, batch), 0)
    with safe_open(folder / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    on_disk = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert on_disk == hf_mpq.size_report(again).total_bytes
    for found in served(again, batch, backends):
        alike(trained, found, batch, CLOSE)
    return plain, trained


@every
def test_a_packed_model_is_what_was_trained_and_is_served(family, tmp_path):
    check(family, heads_of(family)[-1], mixed_config, tmp_path, ("cpu-float",))


@every
def test_eight_bits_are_nearly_float(family):
    """What a family's code does beside its layers, such as to scale a table, is still done."""
    model, batch = tiny_model(family, "bare"), batch_for(family)
    plain = outputs(model, batch)[0].flatten(0, -2)
    found = outputs(hf_mpq.quantize(model, MPQConfig(bits=8)), batch)[0].flatten(0, -2)
    assert cosine_similarity(plain, found).min() > 0.99
    tables = [name for name in family_of(model).embeddings if absolute_name(model, name) is not None]
    packed = dict(matrices(hf_mpq.pack(model), PackedEmbedding))
    assert set(packed) == set(tables)


@distinct
def test_what_is_pruned_is_folded(family):
    """Rows and heads leave the products, and the float function with those rows at zero stays."""
    kinds = {"pointwise", "value", "scores", "heads"}
    model, batch = tiny_model(family, "bare"), batch_for(family)
    config = MPQConfig(groups="channel", **FLOAT)
    config.assignment = pruned_assignment(model, config, kinds).to_dict()
    zeroed = tiny_model(family, "bare")
    for name, matrix in config.assignment["matrices"].items():
        zeroed.get_submodule(absolute_name(zeroed, name)).weight.data[torch.tensor(matrix["bits"]) == 0] = 0
    hf_mpq.quantize(model, config)
    for _, layer in matrices(model):
        kept = layer.spec.layout.expand(layer.program.gate.derive()) > 0
        layer.quantized_weight = lambda layer=layer, kept=kept: layer.float_weight() * kept.unsqueeze(1)
    for a, b in zip(outputs(zeroed, batch), outputs(model, batch)):
        torch.testing.assert_close(a, b, atol=3e-5 * float(a.abs().max()), rtol=1e-5)
    for _, layer in matrices(model):
        del layer.quantized_weight
    packed = hf_mpq.pack(model)
    before, links = outputs(packed, batch), family_of(packed).links(packed)
    hf_mpq.prepare(packed, "cpu-float")
    alike(before, outputs(packed, batch), batch, 1e-4)
    smaller = dict(matrices(packed, CompactLinear))
    feed_forward = [link for link in links if link.kind in ("pointwise", "gated")]
    assert feed_forward and all(smaller[link.consumer].in_features == 42 for link in feed_forward)
    gone = {link.blocks[0].name for link in links if link.kind == "scores" and family_of(packed).removable_heads}
    assert all(smaller[name].out_features < 32 for name in gone)


@distinct
def test_attention_bits(family, tmp_path):
    model, batch = tiny_model(family, "bare"), batch_for(family)
    config = MPQConfig(bits=8, attention_bits=4)
    if not family_of(model).operands:
        with pytest.raises(ValueError, match="cannot be quantized; leave attention_bits unset"):
            hf_mpq.quantize(model, config)
        return
    plain = outputs(hf_mpq.quantize(tiny_model(family, "bare"), MPQConfig(bits=8)), batch)
    quantized = outputs(hf_mpq.quantize(model, config), batch)
    assert not torch.equal(plain[0], quantized[0])
    alike(plain, quantized, batch, 0.5)
    hf_mpq.pack(model).save_pretrained(tmp_path)
    close(quantized, outputs(head_class(family, "bare").from_pretrained(tmp_path), batch))


@pytest.mark.full
@every
def test_precisions_are_searched(family):
    """Gates of every matrix learn, and what is derived is what runs."""
    model, batch = tiny_model(family, "bare"), batch_for(family)
    hf_mpq.quantize(model, MPQConfig(bits=(0, 2, 4, 8), groups=4))
    model.train()
    seen = {"global_attention_mask": batch["attention_mask"]} if family == "longformer" else {}  # further matrices
    model(**batch, **seen).last_hidden_state.square().sum().backward()
    searching = [layer for _, layer in matrices(model) if layer.program.gate.searching]
    assert searching and all(any(p.grad is not None for p in layer.program.gate.parameters()) for layer in searching)
    found = hf_mpq.assignment_of(hf_mpq.fix(model))
    before = outputs(model, batch)
    close(before, outputs(hf_mpq.pack(model), batch), 1e-4)
    assert hf_mpq.assignment_of(model) == found


@pytest.mark.full
@pytest.mark.parametrize("bits", [8, 4, 2])
@every
def test_every_head_at_every_width_on_every_backend(family, bits, tmp_path):
    for head in heads_of(family):
        check(family, head, lambda model: MPQConfig(bits=bits, groups=4), tmp_path / head, SERVED)


def exported(family, head, bits, to, format, **options):
    model = hf_mpq.pack(hf_mpq.quantize(tiny_model(family, head), MPQConfig(bits=bits)))
    return model, hf_mpq.export(model, format, to, **options)


@pytest.mark.full
@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("family", GRAPHS)
def test_onnx(family, bits, tmp_path):
    from tests.exporters.test_export import run_onnx

    if base.unmet("onnx"):
        pytest.skip(str(base.unmet("onnx")))
    batch = batch_for(family)
    model, folder = exported(family, heads_of(family)[-1], bits, tmp_path, "onnx", activations="trained")
    alike(outputs(model, batch), run_onnx(folder, batch), batch, CLOSE)
    other = batch_for(family, rows=2, tokens=7)
    alike(outputs(model, other), run_onnx(folder, other), other, CLOSE)


@pytest.mark.full
@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("family", GRAPHS)
def test_openvino(family, bits, tmp_path):
    sys.modules.setdefault("openvino_telemetry", None)
    from tests.exporters.test_export import run_openvino

    if base.unmet("openvino"):
        pytest.skip(str(base.unmet("openvino")))
    batch = batch_for(family)
    float_inputs = tiny_model(family, heads_of(family)[-1])
    model = hf_mpq.pack(hf_mpq.quantize(float_inputs, MPQConfig(bits=bits, activation_bits=None)))
    folder = hf_mpq.export(model, "openvino", tmp_path, activations="float")
    alike(outputs(model, batch), run_openvino(folder, batch, exactly=True), batch, 0.01)


@pytest.mark.full
@pytest.mark.parametrize("bits", [8, 4, 2])
@every
def test_dense(family, bits, tmp_path):
    head, batch = heads_of(family)[0], batch_for(family)
    model = hf_mpq.quantize(tiny_model(family, head), MPQConfig(bits=bits, activation_bits=None))
    folder = hf_mpq.export(hf_mpq.pack(model), "dense", tmp_path)
    alike(outputs(model, batch), outputs(head_class(family, head).from_pretrained(folder), batch), batch, 1e-4)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_what_has_no_graph_says_so(format, tmp_path):
    """A trace of Longformer would hold the windows of the text that it was traced with."""
    if base.unmet(format):
        pytest.skip(str(base.unmet(format)))
    with pytest.raises(
        ValueError, match=r"no graph: it cuts a text into windows .* as 'dense' or 'compressed-tensors'"
    ):
        exported("longformer", "bare", 4, tmp_path, format, activations="float")


def test_tables_that_are_scaled_stay_so_when_they_are_float_again():
    model, batch = tiny_model("gemma3_text", "bare"), batch_for("gemma3_text")
    hf_mpq.quantize(model, MPQConfig(bits=8, activation_bits=None))
    before = outputs(model, batch)
    close(before, outputs(hf_mpq.pack(model).dequantize(), batch), 1e-4)
    again = hf_mpq.quantize(model, MPQConfig(bits=8, activation_bits=None))
    alike(before, outputs(again, batch), batch, 0.01)


@pytest.mark.parametrize("family", [name for name in ("nomic_bert", "gte", "eurobert") if name in MORE])
def test_a_gate_that_is_apart_goes_with_its_rows(family):
    """A budget in milliseconds ties both, and only both make a row leave."""
    from hf_mpq.compression.choices import default_config
    from hf_mpq.core import Budget

    model = tiny_model(family)
    space = default_config([Budget.parse("5ms")], model).resolve(model)
    ties = [space.weights[f"layers.0.mlp.{name}_proj"].tie for name in ("gate", "up")]
    assert ties[0] == ties[1] != space.weights["layers.1.mlp.up_proj"].tie
    assert not any(isinstance(layer, PackedLinear) for layer in model.modules())
