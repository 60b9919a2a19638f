"""Integer products, and encoder layers in one call, against the packed model that decodes."""

import copy
import io
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import hf_mpq
from hf_mpq.core import ActivationSpec, SubgroupLayout
from hf_mpq.nn import PackedLinear, encoder_blocks, record_blocks
from hf_mpq.nn.integers import IntegerMatrix
from hf_mpq.nn.packing import pack_matrix
from hf_mpq.nn.walk import matrices
from hf_mpq.runtime.int8 import Int8Layer, Int8Product, NativeProduct, unsupported, use_native_products
from hf_mpq.weights import QUANTIZERS, ActivationQuantizer
from tests.nn.cases import LAYOUTS, linear_of
from tests.runtime.threads import wrong_answers
from tests.tiny import FAMILIES, outputs, tiny_batch, tiny_model

pytestmark = pytest.mark.skipif(unsupported() is not None, reason=str(unsupported()))
FUSED = ("bert", "roberta", "xlm-roberta", "distilbert", "albert", "electra")
GRIDS = {
    "per token": ActivationSpec("dynamic-token", 8),
    "per token, symmetric": ActivationSpec("dynamic-token", 8, {"symmetric": True}),
    "per tensor": ActivationSpec("dynamic-tensor", 8),
    "static": ActivationSpec("static", 8),
    "static, symmetric": ActivationSpec("static", 8, {"symmetric": True}),
    "4 bits": ActivationSpec("dynamic-token", 4),
}


def layer_of(name: str, layout, activation: ActivationSpec, x: torch.Tensor):
    """A packed layer whose input is quantized."""
    layer = linear_of(layout, quantizer=name)
    quantizer = ActivationQuantizer.from_spec(activation)
    quantizer.calibrate(x)
    layer.input_quantizer = quantizer.eval()
    return pack_matrix(layer).eval()


def mixed(model):
    """A model whose open gates are decided, each sub-group at random."""
    drawn, assignment = Random(0), hf_mpq.nn.derive(model)
    found = {name: layer.spec for name, layer in matrices(model) if layer.program.gate.searching}
    several = {
        name: replace(assignment.matrices[name], bits=tuple(drawn.choices(spec.candidates, k=spec.layout.count)))
        for name, spec in found.items()
    }
    return hf_mpq.fix(model, replace(assignment, matrices=assignment.matrices | several)) if several else model


def packed_model(family: str = "bert", **fields):
    """A tiny packed model with 8-bit activations; static ranges are calibrated on the tiny batch."""
    changes = fields.pop("changes", {})
    config = hf_mpq.MPQConfig(**{"bits": 4, "activation_bits": 8, **fields})
    model = mixed(hf_mpq.quantize(tiny_model(family, **changes), config))
    if config.activation == "static":
        hf_mpq.nn.calibrate_activations(model, [tiny_batch()])
    return hf_mpq.pack(model).eval()


@pytest.mark.parametrize("activation", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("layout", ["uneven rows", "channel", "matrix"])
@pytest.mark.parametrize("name", [name for name in QUANTIZERS if name != "nested"])
def test_products_are_those_of_the_stored_weight(name, layout, activation):
    x = torch.randn(2, 3, 11) + 0.3
    layer = layer_of(name, LAYOUTS[layout], activation, x)
    matrix = IntegerMatrix.of(layer)
    offset = 0 if matrix.offset is None else matrix.offset.unsqueeze(1)
    assert matrix.exact
    assert_close(matrix.levels * matrix.scale.unsqueeze(1) + offset, layer.weight, rtol=1e-5, atol=1e-6)
    assert_close(Int8Product(layer)(x), layer(x), rtol=1e-4, atol=1e-5)


def test_scales_of_columns_are_rounded_to_eight_bits():
    x = torch.randn(2, 3, 11)
    layer = layer_of("symmetric", LAYOUTS["columns"], GRIDS["per token"], x)
    matrix = IntegerMatrix.of(layer)
    assert not matrix.exact
    error = (matrix.levels * matrix.scale.unsqueeze(1) - layer.weight).abs()
    assert (error <= layer.weight.abs().amax(1, keepdim=True) / 254 * 1.001).all()


def assert_layers_alike(model):
    """Every prepared encoder layer, on the inputs that the packed model gives it."""
    with hf_mpq.use_backend("reference"):
        records = record_blocks(model, [tiny_batch()])
    blocks = encoder_blocks(model)
    for name, record in records.items():
        real = record.masks[0]
        with torch.no_grad():
            got = record.run(blocks[name], 0)
        difference = (got - record.outputs[0]).abs()[real]
        assert difference.median() < 1e-5 * record.outputs[0].abs().max()  # most levels are the same,
        assert difference.max() < 0.1 * record.outputs[0].abs().max()  # and where one is not, it is the next


@pytest.mark.parametrize("activation", ["dynamic-token", "static"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_what_it_gave(family, activation):
    model = packed_model(family, activation=activation)
    before = outputs(model)
    assert hf_mpq.prepare(model, "cpu-int8") is model
    for got, want in zip(outputs(model), before):
        assert_close(got, want, rtol=0.1, atol=0.1 * float(want.abs().max()))
    assert_layers_alike(model)
    with hf_mpq.use_backend("reference"):
        assert all(torch.equal(got, want) for got, want in zip(outputs(model), before))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_of_one_shape_are_fused(family):
    model = hf_mpq.prepare(packed_model(family), "cpu-int8")
    assert all(isinstance(block, Int8Layer) == (family in FUSED) for block in encoder_blocks(model).values())


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    "fields",
    [
        {"activation_options": {"symmetric": True}},
        {"activation": "static", "activation_options": {"symmetric": True}},
        {"quantizer": "minmax"},
        {"activation_bits": 5},
        {"rules": {r"0\..*(query|output)|1\..*intermediate": {"activation_bits": 3}}},
        {"changes": {"hidden_act": "relu"}},
        {"changes": {"hidden_act": "gelu_new"}},
        {"changes": {"num_attention_heads": 2, "hidden_size": 80}},
        {"changes": {"hidden_act": "relu"}, "activation": "static"},
    ],
    ids=str,
)
def test_fused_layers_of_every_kind(fields):
    model = hf_mpq.prepare(packed_model(**fields), "cpu-int8")
    assert any(isinstance(block, Int8Layer) for block in encoder_blocks(model).values())
    assert_layers_alike(model)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    "changes", [{}, {"num_attention_heads": 2}, {"num_attention_heads": 8, "hidden_size": 80}], ids=str
)
@pytest.mark.parametrize("rows, tokens", [(1, 3), (2, 33), (5, 16)])
def test_bfloat16_attention_is_near(rows, tokens, changes):
    model = packed_model(changes=changes)
    batch = tiny_batch(rows, tokens)
    batch["attention_mask"][:, 0] = 1
    with torch.no_grad():
        want = model(**batch).logits
        got = hf_mpq.prepare(model, "cpu-int8", torch.bfloat16)(**batch).logits
    assert_close(got, want, rtol=0, atol=0.05 * float(want.abs().max()))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("fields", [{"attention_bits": 8}, {"changes": {"is_decoder": True}}], ids=str)
def test_layers_with_another_attention_are_not_fused(fields):
    model = packed_model(**fields)
    before = outputs(model)
    hf_mpq.prepare(model, "cpu-int8")
    assert not any(isinstance(block, Int8Layer) for block in encoder_blocks(model).values())
    for got, want in zip(outputs(model), before):
        assert_close(got, want, rtol=0.1, atol=0.1 * float(want.abs().max()))


@pytest.mark.parametrize("rows, tokens", [(1, 1), (1, 37), (2, 33), (5, 8)])
def test_any_batch_and_length(rows, tokens):
    model = packed_model()
    batch = tiny_batch(rows, tokens)
    if tokens < 4:
        batch["attention_mask"][:] = 1
    with torch.no_grad():
        want = model(**batch).logits
        got = hf_mpq.prepare(model, "cpu-int8")(**batch).logits
    assert_close(got, want, rtol=0.1, atol=0.1 * float(want.abs().max()))


def test_masks_of_single_queries_are_followed():
    model = packed_model()
    batch = tiny_batch(2, 6)
    batch["attention_mask"] = torch.ones(2, 1, 6, 6).tril().bool()
    with torch.no_grad():
        want = model(**batch).logits
        got = hf_mpq.prepare(model, "cpu-int8")(**batch).logits
    assert_close(got, want, rtol=0.1, atol=0.1 * float(want.abs().max()))


def test_hidden_states_and_attentions_are_given():
    model = hf_mpq.prepare(packed_model(changes={"attn_implementation": "eager"}), "cpu-int8")
    with torch.no_grad():
        found = model(**tiny_batch(), output_attentions=True, output_hidden_states=True)
        plain = model(**tiny_batch(), output_hidden_states=True)
    assert len(found.attentions) == 2 and len(found.hidden_states) == len(plain.hidden_states) == 3


@pytest.mark.usefixtures("compiler")
def test_every_matrix_is_decoded_once_and_only_what_runs_is_laid_out(monkeypatch):
    decoded = Counter()
    for name in ("integers", "full_weight"):
        plain = getattr(PackedLinear, name)
        monkeypatch.setattr(PackedLinear, name, lambda layer, plain=plain: decoded.update([layer]) or plain(layer))
    model = packed_model()
    hf_mpq.prepare(model, "cpu-int8")
    layers = [layer for layer in model.modules() if isinstance(layer, PackedLinear)]
    assert [decoded[layer] for layer in layers] == [1] * len(layers)
    want = outputs(model)[0]
    standing_back = [layer.prepared["cpu-int8"] for layer in layers if type(layer.prepared["cpu-int8"]) is Int8Product]
    assert standing_back and not any(product.made for product in standing_back)
    with torch.inference_mode():
        got = model(**tiny_batch(), output_attentions=True).logits
    assert all(product.made for product in standing_back)
    assert_close(got, want, rtol=0, atol=0.1 * float(want.abs().max()))


@pytest.mark.parametrize("backend", ["cpu-int8", "cpu-float"])
def test_a_first_use_under_autocast_leaves_nothing_behind(backend):
    def run(model):
        with torch.no_grad():
            return model(**tiny_batch(), output_attentions=True).logits

    model = hf_mpq.quantize(tiny_model("bert"), hf_mpq.MPQConfig(bits=4, low_rank=4))
    for layer in model.modules():
        if isinstance(layer, hf_mpq.nn.MPQLinear) and layer.spec.rank:
            layer.set_low_rank(torch.rand(layer.out_features, 4) * 0.1, torch.rand(4, layer.in_features) * 0.1)
    packed = hf_mpq.pack(model).eval()
    first, other = (hf_mpq.prepare(copy.deepcopy(packed), backend) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run(first)
    assert torch.equal(run(first), run(other))


def test_saving_writes_the_same_file():
    model = packed_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after = hf_mpq.prepare(model, "cpu-int8").state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_copies_casts_and_other_backends_decode_again():
    model = packed_model()
    before = outputs(model)
    hf_mpq.prepare(model, "cpu-int8")
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    cast = nn.Module.to(nn.Module.to(hf_mpq.prepare(copy.deepcopy(model), "cpu-int8"), torch.float64), torch.float32)
    for twin in (
        copy.deepcopy(model),
        torch.load(file, weights_only=False),
        cast,
        hf_mpq.prepare(copy.deepcopy(model), "reference"),
        hf_mpq.prepare(model, "cpu-float"),
    ):
        assert all(torch.equal(got, want) for got, want in zip(outputs(twin), before))


def test_a_move_to_where_it_is_changes_nothing():
    model = hf_mpq.prepare(packed_model(), "cpu-int8")
    before = outputs(model)
    assert all(torch.equal(got, want) for got, want in zip(outputs(model.to("cpu")), before))
    assert all(layer.prepared for layer in model.modules() if isinstance(layer, hf_mpq.nn.PackedLinear))


def test_another_precision_is_not_answered_from_the_old_one():
    model = hf_mpq.prepare(packed_model(bits=(2, 4, 8), nested=True), "cpu-int8")
    high = outputs(model)
    hf_mpq.set_precision(model, 2)
    low = outputs(model)
    with hf_mpq.use_backend("reference"):
        for got, want in zip(low, outputs(model)):
            assert_close(got, want, rtol=0.05, atol=0.05 * float(want.abs().max()))
    assert not torch.allclose(low[0], high[0], rtol=0.01)
    assert_layers_alike(hf_mpq.prepare(model, "cpu-int8"))


def test_a_head_can_be_trained_on_what_is_prepared():
    model = hf_mpq.prepare(packed_model(), "cpu-int8")
    model(**tiny_batch()).logits.sum().backward()
    assert model.classifier.weight.grad.abs().sum() > 0


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("name", [name for name in QUANTIZERS if name != "nested"])
@pytest.mark.parametrize("activation", GRIDS.values(), ids=GRIDS)
def test_native_products_are_those_of_the_stored_weight(activation, name):
    x = torch.randn(2, 3, 11) + 0.3
    layer = layer_of(name, LAYOUTS["uneven rows"], activation, x)
    layer.prepared["cpu-int8"] = Int8Product(layer)
    use_native_products(layer)
    assert isinstance(layer.prepared["cpu-int8"], NativeProduct) == (activation.quantizer != "dynamic-tensor")
    with hf_mpq.use_backend("reference"):
        want = layer(x)
    difference = (layer(x) - want).abs()
    assert difference.median() < 1e-5 * want.abs().max() and difference.max() < 0.05 * want.abs().max()
    assert_close(layer(x.double()), want.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("name", ["per token", "static"])
def test_native_products_are_nearer_than_float32(name):
    """Beside the layer in double precision, where zero points and sums of rows are large; no level is another."""
    layer, x = linear_of(SubgroupLayout.of("channel", (64, 384)), (8,)), torch.randn(2000, 384) + 0.5
    layer.weight.data.add_(0.3)
    layer.calibrate()
    layer.input_quantizer = ActivationQuantizer.from_spec(GRIDS[name]).eval()
    layer.input_quantizer.calibrate(x)
    layer = pack_matrix(layer).eval()
    layer.prepared["cpu-int8"] = Int8Product(layer)
    use_native_products(layer)
    with torch.no_grad():
        got = layer(x)
        with hf_mpq.use_backend("reference"):
            plain, exact = layer(x), layer.double()(x.double())
    assert (got - exact).abs().median() < 0.5 * (plain - exact).abs().median()
    assert (got - exact).abs().max() < 1e-6 * exact.abs().max()


def test_threads_can_share_a_model():
    model = hf_mpq.prepare(packed_model(), "cpu-int8")
    batches = [tiny_batch(1 + number % 3, 7 + number) for number in range(8)]
    with torch.no_grad():
        wanted = [model(**batch).logits for batch in batches]
    assert not wrong_answers(model, batches, wanted)


def test_what_cannot_be_prepared_says_why():
    with pytest.raises(ValueError, match=r"hf_mpq\.pack"):
        hf_mpq.prepare(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="activation_bits=8"):
        hf_mpq.prepare(packed_model(activation_bits=None), "cpu-int8")
    with pytest.raises(ValueError, match="attention_dtype"):
        hf_mpq.prepare(packed_model(), attention_dtype=torch.float16)
    with pytest.raises(ValueError, match="auto, cpu-float, cpu-int8"):
        hf_mpq.prepare(packed_model(), "gpu")


def test_float_activations_are_prepared_too():
    model = packed_model(activation_bits=None)
    before = outputs(model)
    hf_mpq.prepare(model)
    for got, want in zip(outputs(model), before):
        assert_close(got, want)
