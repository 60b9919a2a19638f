"""Prepared and compacted models whose bytes are loaded anew, or moved."""

import copy

import pytest
import torch
from torch import nn

import hf_mpq
from hf_mpq.nn import MPQLinear, PackedLinear
from hf_mpq.runtime import CompactLinear, compact
from hf_mpq.runtime.int8 import unsupported
from tests.tiny import outputs, tiny_batch, tiny_model

INT8 = pytest.param("cpu-int8", marks=pytest.mark.skipif(unsupported() is not None, reason=str(unsupported())))


def packed(change=lambda weight: weight, **fields):
    """A tiny packed model, of weights that were changed before."""
    model = tiny_model("bert")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(change(parameter))
    model = hf_mpq.quantize(model, hf_mpq.MPQConfig(**{"bits": 4, **fields}))
    if fields.get("activation") == "static":
        hf_mpq.nn.calibrate_activations(model, [tiny_batch()])
    return hf_mpq.pack(model).eval()


def pruned(every=3, change=lambda weight: weight):
    """The same with one of `every` feed-forward rows, and one head, at 0 bits."""
    model = hf_mpq.quantize(tiny_model("bert"), hf_mpq.MPQConfig(bits=(0, 4, 8), groups="channel"))
    for name, layer in model.named_modules():
        if isinstance(layer, MPQLinear) and layer.program.gate.searching:
            layer.weight.data.copy_(change(layer.weight.data))
            logits = layer.program.gate.logits.data
            logits.zero_()[:, 1] = 5.0
            if name.endswith("intermediate.dense"):
                logits[::every, 0] = 9.0
            elif name.endswith(("query", "key", "value")):
                logits[: len(logits) // 4, 0] = 9.0
    return hf_mpq.pack(model).eval()


def alike(found, wanted, share=0.1):
    return all(
        torch.allclose(got, want, rtol=0, atol=share * float(want.abs().max())) for got, want in zip(found, wanted)
    )


@pytest.mark.parametrize("backend", ["cpu-float", INT8])
def test_norms_that_are_loaded_alone_answer_too(backend):
    model = hf_mpq.prepare(packed(), backend)
    before = outputs(model)
    norms = {name: value for name, value in model.state_dict().items() if "LayerNorm.weight" in name}
    assert norms
    model.load_state_dict({name: value * 1.5 for name, value in norms.items()}, strict=False)
    found = outputs(model)
    assert not alike(found, before, 0.02) and alike(found, outputs(hf_mpq.prepare(model, "reference")), 1e-3)


@pytest.mark.parametrize("fields", [{}, {"activation": "static"}], ids=str)
@pytest.mark.parametrize("backend", ["auto", "cpu-float", INT8])
def test_what_is_loaded_is_what_answers(backend, fields):
    old, new = packed(**fields), packed(lambda weight: -0.7 * weight, **fields)
    wanted = outputs(new)
    assert not alike(outputs(hf_mpq.prepare(old, backend)), wanted)
    old.load_state_dict(new.state_dict())
    assert alike(outputs(old), wanted, 1e-5)
    assert not any(layer.prepared for layer in old.modules() if isinstance(layer, PackedLinear))
    assert alike(outputs(hf_mpq.prepare(old, backend)), wanted)


def test_loading_something_else_drops_nothing():
    model = hf_mpq.prepare(packed(), "cpu-float")
    model.load_state_dict({"classifier.bias": torch.ones(2)}, strict=False)
    assert all(layer.prepared for layer in model.bert.encoder.modules() if isinstance(layer, PackedLinear))
    layer = model.bert.encoder.layer[0].output.dense
    layer.load_state_dict(layer.state_dict())
    assert not layer.prepared and model.bert.encoder.layer[0].intermediate.dense.prepared


def test_smaller_layers_load_what_has_the_same_rows_pruned():
    model, new = compact(pruned()), pruned(change=lambda weight: weight.flip(1))
    model.load_state_dict(new.state_dict())
    assert alike(outputs(model), outputs(new), 1e-5)
    before = copy.deepcopy(model.bert.encoder.layer[0].intermediate.dense.state_dict())
    with pytest.raises(RuntimeError, match=r"intermediate\.dense is compacted, and the given map.*hf_mpq\.prepare"):
        model.load_state_dict(pruned(every=4).state_dict())
    after = model.bert.encoder.layer[0].intermediate.dense.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_positions_of_smaller_layers_move_along():
    model = pruned()
    names = set(model.state_dict())
    compact(model)
    assert set(model.state_dict()) == names
    nn.Module.to(model, "meta", torch.float16)
    layers = [layer for layer in model.modules() if isinstance(layer, CompactLinear)]
    assert layers and all(layer.kept_rows.is_meta and layer.kept_columns.is_meta for layer in layers)
    assert layers[0].kept_rows.dtype == torch.int64
