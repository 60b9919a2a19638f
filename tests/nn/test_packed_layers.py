"""Packed twins: the same functions from stored codes, whatever is stored and however they are cast."""

import copy

import pytest
import torch
from torch import nn

from hf_mpq.core import ActivationSpec
from hf_mpq.nn import MPQLayerNorm
from hf_mpq.nn.packing import pack_matrix, pack_norm, plain_layer
from hf_mpq.weights import QUANTIZERS
from tests.nn.cases import LAYOUTS, embedding_of, linear_of
from tests.weights.cases import CHOOSING

MIXING = [name for name in QUANTIZERS if name != "nested"]
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
every_quantizer = pytest.mark.parametrize("name", MIXING)


def assert_twins(layer, packed):
    """The same weight and bias bit for bit, and buffers of the sizes that were promised."""
    assert torch.equal(packed.weight, layer.quantized_weight())
    if layer.bias is not None:
        assert torch.equal(packed.bias, layer.stored_bias())
    assert {name: buffer.numel() for name, buffer in packed.packed_buffers().items()} == packed.stored.buffers()
    assert packed.stored == layer.storage()
    assert packed.group_bits().tolist() == layer.program.gate.derive().tolist()


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@every_layout
@every_quantizer
def test_linear_twins_are_equal(name, layout, bias, device):
    layer = linear_of(layout, quantizer=name, bias=bias).to(device)
    packed, x = pack_matrix(layer), torch.randn(2, 3, 11, device=device)
    assert_twins(layer, packed)
    assert torch.equal(packed(x), layer(x))


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        (name, candidates)
        for name in MIXING
        for candidates in [*((bits,) for bits in range(QUANTIZERS[name].most_bits + 1)), tuple(range(9))]
    ],
    ids=str,
)
def test_every_precision_alone_and_all_together(name, candidates):
    layer = linear_of(LAYOUTS["channel"], candidates, quantizer=name)
    assert_twins(layer, pack_matrix(layer))


@pytest.mark.parametrize("scale_dtype", ["float16", "float32"])
@pytest.mark.parametrize("float_dtype", ["float16", "float32"])
def test_stored_types_can_be_chosen(scale_dtype, float_dtype):
    layer = linear_of(LAYOUTS["uneven rows"], scale_dtype=scale_dtype, float_dtype=float_dtype)
    assert_twins(layer, pack_matrix(layer))


@every_layout
@every_quantizer
def test_embedding_twins_look_up_the_same_rows(name, layout):
    table = embedding_of(layout, (0, 1, 3, 8), quantizer=name)
    packed = pack_matrix(table)
    assert_twins(table, packed)
    for ids in (torch.tensor([[3, 3, 0], [12, 1, 7]]), torch.tensor([5]), torch.zeros(0, dtype=torch.int64)):
        assert torch.equal(packed(ids), table(ids))
    for rows in (torch.arange(13), torch.tensor([12, 0, 4, 4]), torch.tensor([7])):
        assert torch.equal(packed.decode_rows(rows), packed.decode()[rows])


@pytest.mark.parametrize("mask", CHOOSING)
@every_quantizer
def test_masked_twins_are_equal(name, mask):
    options = {"element": {"density": 0.3}, "n:m": {"kept": 3, "block": 11}}[mask]
    for layout in LAYOUTS.values():
        layer = linear_of(layout, quantizer=name, mask=mask, mask_options=options)
        assert_twins(layer, pack_matrix(layer))
        table = embedding_of(layout, quantizer=name, mask=mask, mask_options=options)
        assert torch.equal(pack_matrix(table)(torch.arange(13)), table(torch.arange(13)))


def with_dead(layer, columns, rows=()):
    layer.program.live_columns[columns] = False
    layer.program.refresh()
    if layer.bias is not None:
        layer.live_rows[list(rows)] = False
    layer.calibrate()
    return layer


@pytest.mark.parametrize("mask", [None, "element"])
@pytest.mark.parametrize("layout", [LAYOUTS["uneven rows"], LAYOUTS["channel"]], ids=["uneven rows", "channel"])
@every_quantizer
def test_dead_columns_and_bias_rows_are_not_stored(name, layout, mask):
    layer = with_dead(linear_of(layout, quantizer=name, mask=mask), [0, 3, 4, 10], [2, 9])
    packed = pack_matrix(layer)
    assert_twins(layer, packed)
    assert packed.stored.length == 7 and packed.stored.bias == 11
    assert not packed.weight[:, [0, 3, 4, 10]].any() and not packed.bias[[2, 9]].any()
    smaller, full = packed.stored.buffers(), linear_of(layout, quantizer=name, mask=mask).storage().buffers()
    assert smaller["codes"] < full["codes"] and smaller["bias_values"] == full["bias_values"] - 4
    if mask is None:
        table = with_dead(embedding_of(layout, quantizer=name), [0, 3, 4, 10])
        assert torch.equal(pack_matrix(table)(torch.arange(13)), table(torch.arange(13)))


def test_a_bias_without_live_rows_is_stored_as_flags_only():
    layer = linear_of(LAYOUTS["uneven rows"])
    layer.live_rows.fill_(False)
    packed = pack_matrix(layer)
    assert_twins(layer, packed)
    assert packed.stored.bias == 0 and "bias_values" not in packed.stored.buffers()


@pytest.mark.parametrize("mask", [None, "element"])
def test_a_matrix_of_dead_columns_is_zero(mask):
    layer = with_dead(linear_of(LAYOUTS["uneven rows"], (4,), mask=mask), list(range(11)))
    assert_twins(layer, pack_matrix(layer))


def test_quantized_inputs_and_outputs_are_frozen_in():
    x, layer = torch.randn(2, 3, 11), linear_of(LAYOUTS["uneven rows"], activation=ActivationSpec("static", 4))
    layer.output_quantizer = layer.input_quantizer
    with pytest.raises(ValueError, match="never observed"):
        pack_matrix(layer)
    layer.input_quantizer.calibrate(x)
    packed = pack_matrix(layer.eval())
    assert packed.input_quantizer.name == "fixed" and not list(packed.input_quantizer.parameters())
    assert torch.equal(packed(3 * x), layer(3 * x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_casts_leave_the_bytes_alone(dtype):
    for layer in (linear_of(LAYOUTS["uneven rows"]), embedding_of(LAYOUTS["channel"])):
        packed = pack_matrix(layer)
        before, weight = {k: v.clone() for k, v in packed.state_dict().items()}, packed.weight
        packed.to(dtype)
        assert packed.compute_dtype == packed.weight.dtype == dtype
        assert packed.state_dict().keys() == before.keys()
        assert all(torch.equal(value, before[key]) for key, value in packed.state_dict().items())
        assert torch.equal(packed.weight, weight.to(dtype))
        assert torch.equal(packed.float().weight, weight)
    packed = pack_norm(MPQLayerNorm.from_norm(nn.LayerNorm(12), "float16"))
    before = packed.weight_values.clone()
    assert torch.equal(packed.half().bfloat16().weight_values, before) and packed.weight.dtype == torch.bfloat16


def test_half_is_a_cast_like_any_other():
    packed = pack_matrix(linear_of(LAYOUTS["uneven rows"]))
    x, expected = torch.randn(4, 11), packed.weight.half()
    assert torch.equal(packed.half().weight, expected) and packed(x.half()).dtype == torch.float16


@pytest.mark.parametrize("mask", [None, "element"])
@every_layout
def test_state_dicts_carry_everything(layout, mask):
    packed = pack_matrix(linear_of(layout, mask=mask))
    state = packed.state_dict()
    assert "anchor" not in state and all(value.dtype == torch.uint8 for value in state.values())
    again = type(packed)(packed.stored, torch.float32)
    again.load_state_dict({key: value.clone() for key, value in state.items()})
    assert torch.equal(again.weight, packed.weight) and torch.equal(again.bias, packed.bias)


def test_missing_and_unexpected_buffers_are_refused():
    packed = pack_matrix(linear_of(LAYOUTS["uneven rows"]))
    state = packed.state_dict()
    with pytest.raises(RuntimeError, match="Missing key"):
        packed.load_state_dict({key: value for key, value in state.items() if key != "codes"})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        packed.load_state_dict({**state, "other": torch.zeros(1)})


def test_the_anchor_is_never_saved():
    layers = nn.Sequential(
        pack_matrix(linear_of(LAYOUTS["channel"])),
        pack_matrix(embedding_of(LAYOUTS["channel"])),
        pack_norm(MPQLayerNorm.from_norm(nn.LayerNorm(12), "float16")),
    )
    assert not any("anchor" in key for key in layers.state_dict())
    assert [p.numel() for p in layers.parameters()] == [0, 0, 0]
    copy.deepcopy(layers).load_state_dict(layers.state_dict())


def test_nested_codes_serve_every_precision():
    layout, x = LAYOUTS["uneven rows"], torch.randn(3, 11)
    layer = linear_of(layout, (2, 4, 8), quantizer="nested")
    packed, outputs = pack_matrix(layer), []
    assert_twins(layer, packed)
    assert packed.stored.code_bytes(8) == 8 * 13 * 2 and packed.stored.nested == (2, 4, 8)
    for bits in (2, 4, 8, 2):
        layer.program.gate.set_precision(bits)
        packed.set_precision(bits)
        assert torch.equal(packed.weight, layer.quantized_weight())
        outputs.append(packed(x))
        assert torch.equal(outputs[-1], layer(x))
    assert torch.equal(outputs[0], outputs[3]) and not torch.equal(outputs[0], outputs[1])
    with pytest.raises(ValueError, match="3 bits are not among"):
        packed.set_precision(3)
    table = embedding_of(layout, (2, 4, 8), quantizer="nested")
    packed = pack_matrix(table)
    table.program.gate.set_precision(4)
    packed.set_precision(4)
    assert torch.equal(packed(torch.arange(13)), table(torch.arange(13)))


def test_packing_a_switched_layer_stores_the_highest_precision():
    layer = linear_of(LAYOUTS["uneven rows"], (2, 4, 8), quantizer="nested")
    highest = layer.quantized_weight()
    layer.program.gate.set_precision(2)
    assert torch.equal(pack_matrix(layer).weight, highest)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("precisions", [(), (2, 4, 8)])
@pytest.mark.parametrize("float_dtype", ["float16", "float32"])
def test_norm_twins_are_equal(float_dtype, precisions, bias):
    layer = MPQLayerNorm.from_norm(nn.LayerNorm(12, eps=1e-6, bias=bias), float_dtype, precisions)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    packed, x = pack_norm(layer), torch.randn(3, 12)
    again = type(packed)(12, 1e-6, bias, float_dtype, precisions)
    again.load_state_dict(packed.state_dict())
    for bits in precisions or (8,):
        for norm in (layer, packed, again):
            norm.set_precision(bits)
        assert torch.equal(packed(x), layer(x)) and torch.equal(again(x), layer(x))
    assert "anchor" not in packed.state_dict()


@every_layout
def test_plain_layers_have_the_values_in_use(layout):
    x, ids = torch.randn(3, 11), torch.arange(13)
    layer, table = linear_of(layout), embedding_of(layout, padding_idx=1)
    norm = MPQLayerNorm.from_norm(nn.LayerNorm(11), "float16")
    for quantized, given in (
        (layer, x),
        (pack_matrix(layer), x),
        (table, ids),
        (pack_matrix(table), ids),
        (norm, x),
        (pack_norm(norm), x),
    ):
        plain = plain_layer(quantized)
        assert type(plain) in (nn.Linear, nn.Embedding, nn.LayerNorm) and not any(p.is_meta for p in plain.parameters())
        assert torch.equal(plain(given), quantized(given))
