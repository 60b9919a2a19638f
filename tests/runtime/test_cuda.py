"""Integer products for tensor cores against the packed model that decodes: on every device that is there."""

import copy
import sys

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F
from torch.testing import assert_close

import hf_mpq
from hf_mpq.core import ActivationSpec
from hf_mpq.nn import PackedLinear, encoder_blocks, record_blocks
from hf_mpq.nn.packing import pack_matrix
from hf_mpq.runtime import BACKENDS, CompactLinear, compact
from hf_mpq.runtime.cuda import IntegerRows, TensorCoreProduct, kernels_for
from hf_mpq.weights import QUANTIZERS, ActivationQuantizer
from tests.contracts.test_folding import pruned_model
from tests.nn.cases import LAYOUTS, linear_of
from tests.nn.test_packed_layers import with_dead
from tests.runtime.threads import wrong_answers
from tests.tiny import MOST, outputs, tiny_batch, tiny_model
from tests.weights.cases import CHOOSING

MIXING = [name for name in QUANTIZERS if name != "nested"]
ROWS = ("uneven rows", "channel", "matrix")
GRIDS = {
    "per token": ActivationSpec("dynamic-token", 8),
    "per token, symmetric": ActivationSpec("dynamic-token", 8, {"symmetric": True}),
    "per tensor": ActivationSpec("dynamic-tensor", 8),
    "static": ActivationSpec("static", 8),
    "static, symmetric": ActivationSpec("static", 8, {"symmetric": True}),
    "4 bits": ActivationSpec("dynamic-token", 4),
}


def quantized(layer, activation: ActivationSpec, x: torch.Tensor):
    """The packed form of a layer, its input quantized on a grid that fits `x`."""
    quantizer = ActivationQuantizer.from_spec(activation)
    quantizer.calibrate(x.cpu())
    layer.input_quantizer = quantizer.eval()
    return pack_matrix(layer).eval().to(x.device)


def with_rank(layer):
    layer.set_low_rank(0.1 * torch.randn(13, 3), 0.1 * torch.randn(3, 11))
    return layer


def packed_model(family: str = "bert", device="cpu", **fields):
    """A tiny packed model of mixed precisions, a part of its rows pruned and folded."""
    model = pruned_model(family, {"pointwise", "value", "heads"}, **{"activation_bits": 8, **fields})
    if fields.get("activation") == "static":
        hf_mpq.nn.calibrate_activations(model, [tiny_batch()])
    return hf_mpq.pack(model).eval().to(device)


def prepared(model):
    """As `prepare` does, on a CPU too, where the products are the same and nobody would choose them."""
    compact(model)
    BACKENDS["cuda"].apply(model)
    return model


def on(device, batch):
    return {name: value.to(device) for name, value in batch.items()}


@pytest.mark.parametrize("activation", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("layout", ROWS)
@pytest.mark.parametrize("name", MIXING)
def test_products_are_those_of_the_stored_weight(name, layout, activation, device):
    x = (torch.randn(2, 3, 11) + 0.3).to(device)
    layer = quantized(linear_of(LAYOUTS[layout], quantizer=name), activation, x)
    assert_close(TensorCoreProduct(layer, kernels_for(device))(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dead", [[], [0, 3, 4, 10], list(range(11))], ids=str)
@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("name", MIXING)
def test_dead_columns_and_corrections_stay_exact(name, rank, dead):
    x = torch.randn(40, 11) + 0.3
    layer = with_dead(linear_of(LAYOUTS["channel"], quantizer=name, rank=rank), dead, [2, 9])
    layer = quantized(with_rank(layer) if rank else layer, GRIDS["per token"], x)
    rows = IntegerRows.of(layer)
    weight = rows.levels * rows.scale.unsqueeze(1)
    if rows.offset is not None:
        weight = weight + rows.offset.unsqueeze(1) * rows.live
    weight = weight if rows.factors is None else weight + rows.factors[0] @ rows.factors[1]
    assert rows.exact and (rows.factors is not None) == bool(rank)
    assert_close(weight, layer.full_weight(), rtol=1e-5, atol=1e-6)
    assert_close(TensorCoreProduct(layer)(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mask", CHOOSING)
@pytest.mark.parametrize("name", MIXING)
def test_masked_rows_are_exact_where_they_have_no_offset(name, mask):
    x = torch.randn(5, 11)
    options = {"element": {"density": 0.3}, "n:m": {"kept": 3, "block": 11}}[mask]
    layer = linear_of(LAYOUTS["channel"], quantizer=name, mask=mask, mask_options=options)
    layer = quantized(layer, GRIDS["per token"], x)
    want, product = layer(x), TensorCoreProduct(layer)
    assert IntegerRows.of(layer).exact == (name != "minmax")
    tolerance = 1e-5 if name != "minmax" else float(layer.weight.abs().max()) / 254 * float(x.abs().sum(1).max())
    assert_close(product(x), want, rtol=1e-4, atol=tolerance)


def test_scales_of_columns_are_rounded_to_eight_bits():
    x = torch.randn(2, 3, 11)
    layer = quantized(linear_of(LAYOUTS["columns"]), GRIDS["per token"], x)
    rows = IntegerRows.of(layer)
    assert not rows.exact
    error = (rows.levels * rows.scale.unsqueeze(1) - layer.weight).abs()
    assert (error <= layer.weight.abs().amax(1, keepdim=True) / 254 * 1.001).all()
    assert_close(
        TensorCoreProduct(layer)(x),
        F.linear(layer.input_quantizer(x), layer.weight, layer.bias),
        rtol=0,
        atol=float(error.sum(1).max() * x.abs().max()),
    )


@pytest.mark.parametrize("sign", [-1, 1])
def test_sums_are_exact_at_their_largest(sign, device):
    columns = 4096
    layout = hf_mpq.core.SubgroupLayout.of("channel", (24, columns))
    layer = linear_of(layout, (8,))
    layer.weight.data.copy_(torch.linspace(0.2, 1, columns)).mul_(sign)
    layer.calibrate()
    x = torch.rand(3, columns, device=device) + 2.0
    layer = quantized(layer, ActivationSpec("static", 8), x)
    product = TensorCoreProduct(layer, kernels_for(device))
    codes, grid = layer.input_quantizer.encode(x)
    exact = (codes - grid.zero).double() @ IntegerRows.of(layer).levels.double().t()
    assert exact.abs().max() > 2**24
    want = exact * product.epilogue.scale.double() * grid.step.double() + product.epilogue.bias.double()
    assert_close(product(x).double(), want, rtol=3e-7, atol=0)


@pytest.mark.parametrize("shape", [(11,), (1, 11), (16, 11), (17, 11), (2, 33, 11), (2, 2, 3, 11), (0, 11)], ids=str)
def test_any_number_of_tokens(shape, device):
    x = torch.randn(shape, device=device)
    layer = quantized(linear_of(LAYOUTS["uneven rows"], quantizer="minmax"), GRIDS["per token"], torch.randn(2, 11))
    layer = layer.to(device)
    got, want = TensorCoreProduct(layer, kernels_for(device))(x), layer(x)
    assert got.shape == want.shape
    assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_at_least_as_near(dtype, device):
    x = torch.randn(20, 11, device=device, dtype=dtype)
    layer = quantized(with_rank(linear_of(LAYOUTS["channel"], rank=3)), GRIDS["static"], x.float())
    want = layer.double()(x.double()) if dtype == torch.float64 else layer(x.float())
    layer = layer.to(dtype)
    got, plain = TensorCoreProduct(layer, kernels_for(device))(x), layer(x)
    assert got.dtype == dtype
    error, other = (got - want).abs().double().mean(), (plain - want).abs().double().mean()
    assert error <= max(1.05 * float(other), 1e-6)


def test_gradients_are_those_of_the_packed_layer():
    x = torch.randn(4, 11, requires_grad=True)
    layer = quantized(linear_of(LAYOUTS["channel"]), GRIDS["per token"], x.detach())
    (want,) = torch.autograd.grad(layer(x).square().sum(), x)
    layer.prepared["cuda"] = TensorCoreProduct(layer)
    (got,) = torch.autograd.grad(layer(x).square().sum(), x)
    assert want.abs().sum() > 0 and torch.equal(got, want)


def assert_blocks_alike(model):
    """Every encoder layer, on the inputs that the packed model gives it."""
    batch = on(next(model.parameters()).device, tiny_batch())
    with hf_mpq.use_backend("reference"):
        records = record_blocks(model, [batch])
    blocks = encoder_blocks(model)
    for name, record in records.items():
        with torch.no_grad():
            difference = (record.run(blocks[name], 0) - record.outputs[0]).abs()[record.masks[0]]
        assert difference.median() < 1e-5 * record.outputs[0].abs().max()  # most levels are the same,
        assert difference.max() < 0.1 * record.outputs[0].abs().max()  # and where one is not, it is the next


@pytest.mark.parametrize("activation", ["dynamic-token", "static"])
@pytest.mark.parametrize("family", MOST)
def test_every_family_pruned_and_compacted_gives_what_it_gave(family, activation, device):
    model, batch = packed_model(family, device, activation=activation), on(device, tiny_batch())
    with torch.no_grad():
        want = model(**batch).logits
        got = prepared(model)(**batch).logits
    layers = [module for module in model.modules() if isinstance(module, PackedLinear)]
    assert any(isinstance(layer, CompactLinear) for layer in layers)
    assert all(isinstance(layer.prepared["cuda"], TensorCoreProduct) for layer in layers)
    assert_close(got, want, rtol=0, atol=0.1 * float(want.abs().max()))
    assert_blocks_alike(model)
    with torch.no_grad(), hf_mpq.use_backend("reference"):
        assert_close(model(**batch).logits, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "fields", [{"quantizer": "minmax"}, {"low_rank": 4}, {"attention_bits": 8}, {"activation_bits": None}], ids=str
)
def test_models_of_every_kind(fields, device):
    model, batch = packed_model(device=device, **fields), on(device, tiny_batch())
    with torch.no_grad():
        want = model(**batch).logits
        got = prepared(model)(**batch).logits
    assert_close(got, want, rtol=0, atol=(1e-5 if "activation_bits" in fields else 0.1) * float(want.abs().max()))
    assert_blocks_alike(model)


@pytest.mark.parametrize("rows, tokens", [(1, 1), (1, 37), (5, 8)])
def test_any_batch_and_length(rows, tokens, device):
    batch = on(device, tiny_batch(rows, tokens))
    batch["attention_mask"][:, :1] = 1
    model = packed_model(device=device)
    with torch.no_grad():
        want = model(**batch).logits
        got = prepared(model)(**batch).logits
    assert_close(got, want, rtol=0, atol=0.1 * float(want.abs().max()))


def test_saving_writes_the_same_file_and_copies_decode():
    model = packed_model()
    before, want = {name: tensor.clone() for name, tensor in model.state_dict().items()}, outputs(model)
    after = prepared(model).state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    for got, expected in zip(outputs(copy.deepcopy(model)), want):
        assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_another_precision_is_not_answered_from_the_old_one():
    config = hf_mpq.MPQConfig(bits=(2, 4, 8), nested=True, activation_bits=8)
    model = prepared(hf_mpq.pack(hf_mpq.quantize(tiny_model("bert"), config)).eval())
    high = outputs(model)
    hf_mpq.set_precision(model, 2)
    low = outputs(model)
    assert not torch.allclose(low[0], high[0], rtol=0.01)
    BACKENDS["cuda"].apply(model)
    assert_blocks_alike(model)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_a_prepared_model_can_be_compiled():
    model = packed_model()
    want = outputs(model)[0]
    compiled = torch.compile(prepared(model), backend="eager")
    with torch.no_grad():
        got = compiled(**tiny_batch()).logits
    assert_close(got, want, rtol=0, atol=0.1 * float(want.abs().max()))


def test_products_are_compiled_once_for_all_shapes():
    layer = quantized(linear_of(LAYOUTS["channel"], quantizer="minmax"), GRIDS["per token"], torch.randn(2, 11))
    product, counter = TensorCoreProduct(layer), CompileCounter()
    compiled = torch.compile(lambda x: product(x), backend=counter, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for shape in ((40, 11), (64, 11), (100, 11), (35, 11), (7, 11), (3, 11), (31, 11)):
            x = torch.randn(shape)
            assert_close(compiled(x), product(x), rtol=1e-5, atol=1e-6)
    assert counter.frame_count <= 2  # one more for few tokens, which are padded


def test_threads_can_share_a_model(device):
    model = prepared(packed_model(device=device))
    batches = [on(device, tiny_batch(1 + number % 3, 7 + number)) for number in range(6)]
    with torch.no_grad():
        wanted = [model(**batch).logits for batch in batches]
    assert not wrong_answers(model, batches, wanted)


def test_a_cpu_says_what_to_do_and_imports_no_triton():
    reason = "model.cuda()" if torch.cuda.is_available() else "no CUDA device: use backend='auto'"
    for name in ("cuda", "cuda-float"):
        with pytest.raises(ValueError, match=f"backend '{name}' cannot run this model here: .*{reason}"):
            hf_mpq.prepare(packed_model(), name)
    assert kernels_for(torch.device("cpu")) is None
    if not torch.cuda.is_available():
        assert "hf_mpq.runtime.cuda.kernels" not in sys.modules


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_auto_considers_it_on_a_gpu():
    model = hf_mpq.prepare(packed_model(device="cuda"))
    with torch.no_grad():
        model(**on("cuda", tiny_batch()))
    assert set(model.fastest_backend.milliseconds[4, 16]) == {"cuda", "cuda-float"}
