"""Pruned rows are folded when the assignment is fixed, and compaction then changes nothing, in every family."""

from functools import partial

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import Assignment, MatrixAssignment
from hf_mpq.nn.families import FAMILIES as TABLE
from hf_mpq.nn.matrix import QuantizedMatrix
from hf_mpq.nn.packed import PackedLinear
from hf_mpq.nn.walk import matrices
from hf_mpq.runtime import CompactLinear, compact
from tests.tiny import FAMILIES, HEADS, MOST, outputs, tiny_batch, tiny_model


def pruned_assignment(model, config: MPQConfig, kinds: set[str]) -> Assignment:
    """Prune, by channel, the rows that each kind of link can fold; everything else at 8 bits.

    Kinds: `"pointwise"` (or gated), `"value"`, `"scores"`, `"heads"` (the second of four, in all three).
    """
    space = config.resolve(model)
    bits = {name: torch.full((spec.layout.count,), 8) for name, spec in space.weights.items()}
    for link in space.links:
        for block in link.blocks:
            rows = bits[block.name][block.start : block.start + block.count]
            if link.kind in ("pointwise", "gated") and "pointwise" in kinds:
                rows[3::4] = 0
            if link.kind in kinds & {"value", "scores"}:
                rows.view(4, -1)[:, [1, 1 + rows.numel() // 8]] = 0
            if link.heads and "heads" in kinds:
                rows.view(4, -1)[1] = 0
    return Assignment({name: MatrixAssignment(tuple(values.tolist())) for name, values in bits.items()})


def pruned_model(family: str, kinds: set[str], head: str = "sequence", **options):
    model = tiny_model(family, head)
    config = MPQConfig(groups="channel", **options)
    config.assignment = pruned_assignment(model, config, kinds).to_dict()
    return hf_mpq.quantize(model, config)


def zero_rows(family: str, assignment: dict) -> torch.nn.Module:
    """The float model with the pruned rows of its weights at zero, biases as they were."""
    model = tiny_model(family)
    for name, matrix in assignment["matrices"].items():
        weight = model.get_submodule(hf_mpq.nn.absolute_name(model, name)).weight
        weight.data[torch.tensor(matrix["bits"]) == 0] = 0
    return model


def unrounded_weight(layer) -> torch.Tensor:
    kept = layer.spec.layout.expand(layer.program.gate.derive()) > 0
    return layer.float_weight() * kept.unsqueeze(1)


def layers_named(model, family: str, role: str) -> list:
    """Layers of a role, each with its name: `attention.output.dense` also ends with `output.dense`."""
    ends = f".{getattr(TABLE[family].names, role)}"
    prefixes = TABLE[family].layer_prefixes(model)
    return [(n, m) for n, m in matrices(model, (QuantizedMatrix, PackedLinear)) if n.removesuffix(ends) in prefixes]


@pytest.mark.parametrize("kind", ["pointwise", "value", "scores", "heads"])
@pytest.mark.parametrize("family", FAMILIES)
def test_folding_keeps_the_float_function(family, kind):
    options = {
        "activation_bits": None,
        "embedding_bits": None,
        "projection_bits": None,
        "float_dtype": "float32",
        "scale_dtype": "float32",
    }
    model = pruned_model(family, {kind}, **options)
    for _, layer in matrices(model):
        layer.quantized_weight = partial(unrounded_weight, layer)  # the fold alone
    expected = outputs(zero_rows(family, model.config.quantization_config.assignment))
    for a, b in zip(outputs(model), expected):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


@pytest.mark.parametrize("family", MOST)
def test_folded_rows_leave_the_file(family):
    model = pruned_model(family, {"pointwise", "value"})
    for _, layer in layers_named(model, family, "down"):
        assert layer.storage().length == 56 * 3 // 4
        assert not layer.quantized_weight()[:, 3::4].any()
    for _, layer in layers_named(model, family, "output"):
        assert layer.storage().length == 32 - 8
    for _, layer in layers_named(model, family, "up"):
        if layer.bias is not None:
            assert layer.storage().bias == layer.bias.numel() * 3 // 4
            assert not layer.bias[~layer.live_rows].any()


@pytest.mark.parametrize("family", MOST)
def test_training_keeps_what_is_folded(family):
    model = pruned_model(family, {"pointwise", "value", "scores", "heads"}, "bare").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        model(**tiny_batch()).last_hidden_state.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    trained = outputs(model)
    hf_mpq.pack(model)
    for a, b in zip(trained, outputs(model)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention_bits", [None, 8])
@pytest.mark.parametrize("family", MOST)
def test_compaction_leaves_the_outputs(family, attention_bits, tmp_path):
    kinds = {"pointwise", "value", "scores", "heads"}
    model = hf_mpq.pack(pruned_model(family, kinds, activation_bits=8, attention_bits=attention_bits))
    before = outputs(model)
    compact(model)
    smaller = [module for module in model.modules() if isinstance(module, CompactLinear)]
    assert smaller
    for a, b in zip(before, outputs(model)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert all(layer.weight.shape[1] == 42 for _, layer in layers_named(model, family, "down"))
    heads = 3 if TABLE[family].removable_heads else 4
    parts = 3 if TABLE[family].names.fused else 1
    assert all(layer.weight.shape[0] == parts * 8 * heads for _, layer in layers_named(model, family, "value"))
    model.save_pretrained(tmp_path)
    for a, b in zip(before, outputs(HEADS["sequence"].from_pretrained(tmp_path))):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_compaction_needs_a_packed_model():
    with pytest.raises(ValueError, match=r"hf_mpq\.pack"):
        compact(tiny_model("bert"))


def test_a_layer_can_be_pruned_altogether():
    model = tiny_model("bert")
    hf_mpq.quantize(model, MPQConfig(bits=4, rules={r"layer\.0\.": {"bits": 0}}))
    quantized = outputs(model)
    hf_mpq.pack(model)
    packed = outputs(model)
    compact(model)
    for a, b, c in zip(quantized, packed, outputs(model)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
        torch.testing.assert_close(b, c, atol=1e-5, rtol=0)
