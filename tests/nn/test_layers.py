"""Trainable layers against the plain ones they replace."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_mpq.core import ActivationSpec, SubgroupLayout, WeightSpec
from hf_mpq.nn import MPQEmbedding, MPQLayerNorm, MPQLinear
from hf_mpq.weights import QUANTIZERS
from tests.nn.cases import LAYOUTS, embedding_of, linear_of

NAMES = list(QUANTIZERS)
MIXING = [name for name in NAMES if name != "nested"]


def relative(value, expected):
    return ((value - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", [name for name in NAMES if QUANTIZERS[name].most_bits == 8])
def test_eight_bit_layers_are_close_to_plain_ones(name, layout):
    x = torch.randn(3, 5, layout.shape[1])
    layer = linear_of(layout, (8,), quantizer=name)
    assert 0 < relative(layer(x), F.linear(x, layer.weight, layer.bias)) < 0.02
    ids = torch.arange(layout.shape[0])
    table = embedding_of(layout, (8,), quantizer=name)
    assert 0 < relative(table(ids), table.weight[ids]) < 0.02


@pytest.mark.parametrize("name", NAMES)
def test_layers_take_over_the_parameters(name):
    linear, embedding, norm = nn.Linear(6, 8).eval(), nn.Embedding(8, 6, padding_idx=2), nn.LayerNorm(6, eps=1e-12)
    spec = WeightSpec(SubgroupLayout((8, 6), 2), (4,), quantizer=name)
    table_spec = WeightSpec(SubgroupLayout((8, 6), 2), (4,), quantizer=name, kind="embedding", bias=False)
    pairs = [
        (linear, MPQLinear.from_linear(linear, spec)),
        (embedding, MPQEmbedding.from_embedding(embedding, table_spec)),
        (norm, MPQLayerNorm.from_norm(norm, "float16")),
    ]
    for plain, layer in pairs:
        assert layer.weight is plain.weight and layer.training == plain.training
        assert isinstance(layer, type(plain)) and not any(p.is_meta for p in layer.parameters())
        assert getattr(layer, "bias", None) is getattr(plain, "bias", None)
    assert pairs[1][1].padding_idx == 2 and pairs[2][1].eps == 1e-12


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", MIXING)
def test_the_layer_multiplies_with_its_quantized_weight(name, layout):
    x, layer = torch.randn(3, layout.shape[1]), linear_of(layout, quantizer=name)
    assert torch.equal(layer(x), F.linear(x, layer.quantized_weight(), layer.stored_bias()))
    layer(x).sum().backward()
    assert layer.weight.grad.any() and layer.bias.grad.all()


def test_inputs_and_outputs_may_be_quantized():
    x = torch.randn(4, 11)
    layer = linear_of(LAYOUTS["uneven rows"], activation=ActivationSpec("dynamic-token", 4))
    quantized = layer.input_quantizer(x)
    assert len(quantized[0].unique()) <= 16 and not torch.equal(quantized, x)
    product = F.linear(quantized, layer.quantized_weight(), layer.stored_bias())
    assert torch.equal(layer(x), product)
    layer.output_quantizer = layer.input_quantizer
    assert torch.equal(layer(x), layer.output_quantizer(product))
    assert len(layer.activation_quantizers()) == 2


@pytest.mark.parametrize("float_dtype", ["float16", "float32"])
def test_the_bias_is_rounded_as_stored_and_dead_rows_have_none(float_dtype):
    layer = linear_of(LAYOUTS["uneven rows"], float_dtype=float_dtype)
    layer.live_rows[3] = False
    stored = layer.stored_bias()
    assert stored[3] == 0 and stored.ne(0).sum() == 12
    alive = torch.arange(13) != 3
    assert torch.equal(stored[alive], layer.bias[alive].to(getattr(torch, float_dtype)).float())
    stored.sum().backward()
    assert torch.equal(layer.bias.grad, alive.float())


def test_dead_columns_do_not_matter():
    layer = linear_of(LAYOUTS["uneven rows"])
    layer.program.live_columns[4] = False
    layer.program.refresh()
    before = layer.quantized_weight()
    assert not before[:, 4].any()
    with torch.no_grad():
        layer.weight[:, 4] = 1e3
    layer.calibrate()
    calibrated = layer.quantized_weight()
    layer.weight.grad = None
    calibrated.sum().backward()
    assert not calibrated[:, 4].any() and calibrated.abs().max() < 10 and not layer.weight.grad[:, 4].any()


def test_a_loaded_state_knows_its_dead_columns():
    layer, other = (linear_of(LAYOUTS["uneven rows"]) for _ in range(2))
    layer.program.live_columns[::2] = False
    layer.program.refresh()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.quantized_weight(), layer.quantized_weight())


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_looking_up_rows_equals_looking_up_the_whole_table(name, layout):
    ids = torch.tensor([[5, 0, 5], [2, 7, 1]])
    candidates = (8,) if name == "nested" else (0, 2, 4, 8)
    table, whole = (embedding_of(layout, candidates, quantizer=name, padding_idx=2) for _ in range(2))
    looked_up = table(ids)
    expected = F.embedding(ids, whole.quantized_weight(), padding_idx=2)
    assert torch.equal(looked_up, expected)
    upstream = torch.randn_like(looked_up)
    looked_up.backward(upstream)
    expected.backward(upstream)
    assert not table.weight.grad[2].any()
    for (key, ours), theirs in zip(table.named_parameters(), whole.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=key)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0), (2, 3, 4)])
def test_ids_of_any_shape(shape):
    table = embedding_of(LAYOUTS["channel"])
    ids = torch.randint(0, 13, shape)
    assert torch.equal(table(ids), table.quantized_weight()[ids])


def test_a_frozen_table_needs_no_gradient():
    table = embedding_of(LAYOUTS["channel"], padding_idx=0)
    table.weight.requires_grad_(False)
    assert not table(torch.tensor([0, 1])).requires_grad


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("float_dtype", ["float16", "float32"])
def test_norms_use_stored_type_parameters(float_dtype, bias):
    norm = nn.LayerNorm(12, eps=1e-6, bias=bias)
    nn.init.normal_(norm.weight)
    x, layer = torch.randn(3, 12), MPQLayerNorm.from_norm(norm, float_dtype)
    rounded = [None if p is None else p.to(getattr(torch, float_dtype)).float() for p in (norm.weight, norm.bias)]
    assert torch.equal(layer(x), F.layer_norm(x, (12,), *rounded, 1e-6))
    torch.testing.assert_close(layer(x), norm(x), rtol=2e-3, atol=2e-3)
    layer(x).sum().backward()
    assert norm.weight.grad.all()


def test_switchable_norms_have_parameters_per_precision():
    norm = nn.LayerNorm(12)
    layer = MPQLayerNorm.from_norm(norm, "float16", (2, 4, 8))
    assert layer.lower_weight.shape == layer.lower_bias.shape == (2, 12)
    nn.init.normal_(norm.weight)
    layer.calibrate()
    x, outputs = torch.randn(3, 12), {}
    for position, bits in enumerate((2, 4, 8)):
        layer.set_precision(bits)
        torch.testing.assert_close(layer(x), norm(x), rtol=2e-3, atol=2e-3)
        with torch.no_grad():
            (layer.lower_weight[position] if position < 2 else layer.weight).mul_(position + 2)
        outputs[bits] = layer(x)
    assert not torch.equal(outputs[2], outputs[4]) and not torch.equal(outputs[4], outputs[8])
    layer.set_precision(2)
    assert torch.equal(layer(x), outputs[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layers_compute_in_the_type_of_their_weight(dtype):
    layer, table = linear_of(LAYOUTS["uneven rows"]).to(dtype), embedding_of(LAYOUTS["channel"]).to(dtype)
    assert layer(torch.randn(2, 11, dtype=dtype)).dtype == dtype and table(torch.tensor([1])).dtype == dtype
