"""Where the int8 kernel must stand back, and what it must give at the edges of what it can."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask
from torch.testing import assert_close

import hf_mpq
from hf_mpq.core import SubgroupLayout
from hf_mpq.nn import PackedEmbedding, PackedLinear, encoder_blocks, record_blocks
from hf_mpq.nn.integers import IntegerMatrix
from hf_mpq.nn.packing import pack_matrix
from hf_mpq.runtime.int8 import Int8Layer, Int8Product, NativeProduct, unsupported, use_native_products
from hf_mpq.runtime.swapped import original_class
from hf_mpq.weights import ActivationQuantizer
from tests.nn.cases import LAYOUTS, linear_of
from tests.runtime.test_int8 import GRIDS, layer_of, packed_model
from tests.tiny import outputs, tiny_batch

pytestmark = pytest.mark.skipif(unsupported() is not None, reason=str(unsupported()))
LOWEST = torch.finfo(torch.float32).min


@pytest.fixture
def calls(monkeypatch):
    """Fused layers that ran, one entry each."""
    ran, run = [], Int8Layer._run
    monkeypatch.setattr(Int8Layer, "_run", lambda layer, *args: ran.append(layer) or run(layer, *args))
    return ran


def product_of(layer, kind: str):
    """A layer's product by torch's oneDNN, or in one call of the kernel."""
    layer.prepared["cpu-int8"] = Int8Product(layer)
    if kind == "native":
        use_native_products(layer)
    assert isinstance(layer.prepared["cpu-int8"], NativeProduct if kind == "native" else Int8Product)
    return layer.prepared["cpu-int8"]


def block_outputs(model, batch):
    """For each encoder layer, what it gives for the inputs that the packed model gives it, and what that gives."""
    with hf_mpq.use_backend("reference"):
        records = record_blocks(model, [batch])
    blocks = encoder_blocks(model)
    with torch.no_grad():
        return [(record.run(blocks[name], 0), record.outputs[0]) for name, record in records.items()]


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("shape", [(2, 0), (0, 5)], ids=str)
def test_nothing_gives_nothing(shape):
    model = hf_mpq.prepare(packed_model(changes={"head": "token"}), "cpu-int8")
    with torch.no_grad():
        assert model(torch.zeros(shape, dtype=torch.long)).logits.shape == (*shape, 2)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("kind", ["plain", "native"])
def test_products_of_no_tokens(kind):
    layer = layer_of("symmetric", LAYOUTS["channel"], GRIDS["static"], torch.randn(2, 11))
    assert product_of(layer, kind)(torch.randn(2, 0, 11)).shape == (2, 0, 13)


def masks():
    """Masks under which queries see no key, or see all of them alike."""
    blocks = torch.block_diag(torch.ones(4, 4), torch.ones(2, 2), torch.zeros(1, 1)).bool().expand(3, 1, 7, 7)
    padding = torch.ones(3, 7, dtype=torch.long)
    padding[1] = 0
    nothing = torch.zeros(3, 1, 7, 7).masked_fill(~blocks, -torch.inf)
    return {
        "a sequence of padding": padding,
        "an empty row": blocks,
        "a row of -inf": nothing,
        "a row of the lowest float": nothing.clamp(min=LOWEST),
    }


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("attention", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mask", masks().values(), ids=masks())
def test_queries_that_see_nothing_get_what_torch_gives(mask, attention, calls):
    model = hf_mpq.prepare(packed_model(), "cpu-int8", attention)
    batch = {**tiny_batch(3, 7), "attention_mask": mask}
    for got, want in block_outputs(model, batch):
        difference = (got - want).abs()
        assert difference.median() < (1e-5 if attention == torch.float32 else 2e-2) * want.abs().max()
        assert difference.max() < 0.1 * want.abs().max()
    assert len(calls) == 2


@pytest.mark.usefixtures("compiler")
def test_masks_of_flex_attention_go_to_the_layer(monkeypatch, calls):
    model = hf_mpq.prepare(packed_model(), "cpu-int8")
    block = model.bert.encoder.layer[0]
    monkeypatch.setattr(original_class(type(block)), "forward", lambda layer, hidden, mask: -hidden)
    mask = create_block_mask(lambda b, h, q, k: q >= k, 2, 1, 8, 8, device="cpu")
    hidden = torch.randn(2, 8, 32)
    with torch.no_grad():
        assert torch.equal(block(hidden, mask), -hidden) and not calls


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_fused_and_at_least_as_near(dtype, calls):
    model, x = packed_model(), torch.randn(5, 12, 32).to(dtype)
    block = model.bert.encoder.layer[0]
    added = torch.zeros(5, 1, 1, 12, dtype=dtype)
    added[-1, ..., -3:] = torch.finfo(dtype).min
    with torch.no_grad():
        exact = block(x.float(), added == 0)
        model.to(dtype)
        plain = block(x, added == 0)
        hf_mpq.prepare(model, "cpu-int8")
        for mask in (added, added == 0):
            got = block(x, mask)
            assert got.dtype == dtype and (got - exact).abs().mean() <= 1.05 * (plain - exact).abs().mean()
        assert (block(x, None) - block(x, added)).abs().max() > 0.01
    assert len(calls) == 4


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_models_in_half_precision_are_fused(implementation, dtype, calls):
    model = packed_model(changes={"attn_implementation": implementation}).to(dtype)
    want = outputs(model)[0]
    got = outputs(hf_mpq.prepare(model, "cpu-int8"))[0]
    assert got.dtype == want.dtype == dtype and len(calls) == 2
    assert_close(got, want, rtol=0, atol=0.1 * float(want.abs().max()))
    assert all(
        (found - expected).abs().median() < 0.02 * expected.abs().max()
        for found, expected in block_outputs(model, tiny_batch())
    )


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_products_are_native(dtype, monkeypatch):
    x = torch.randn(2, 3, 11).to(dtype)
    layer = layer_of("symmetric", LAYOUTS["channel"], GRIDS["per token"], x.float()).to(dtype)
    product = product_of(layer, "native")
    monkeypatch.setattr(product, "plain", None)
    with hf_mpq.use_backend("reference"):
        assert_close(product(x), layer(x), rtol=0.02, atol=0.02)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("kind", ["plain", "native"])
@pytest.mark.parametrize("grid", ["per token", "static"])
def test_gradients_are_those_of_the_packed_layer(grid, kind):
    x = torch.randn(4, 11, requires_grad=True)
    layer = layer_of("symmetric", LAYOUTS["channel"], GRIDS[grid], x.detach())
    (want,) = torch.autograd.grad(layer(x).square().sum(), x)
    product_of(layer, kind)
    (got,) = torch.autograd.grad(layer(x).square().sum(), x)
    assert want.abs().sum() > 0 and torch.equal(got, want)


def embedding_gradient(model):
    ids = tiny_batch()["input_ids"]
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    model(inputs_embeds=embeddings).logits.float().square().sum().backward()
    return embeddings.grad.flatten()


@pytest.mark.parametrize("head", ["sequence", "masked"])
@pytest.mark.parametrize("backend", ["cpu-int8", "cpu-float"])
def test_gradients_are_those_of_the_packed_model(backend, head):
    """After a first pass in inference mode, whose tensors no backward pass may keep."""
    model = packed_model(changes={"head": head})
    want = embedding_gradient(model)
    hf_mpq.prepare(model, backend)
    with torch.inference_mode():
        model(**tiny_batch())
    assert torch.cosine_similarity(embedding_gradient(model), want, dim=0) > 0.99


@pytest.mark.usefixtures("compiler")
def test_norms_of_a_fused_layer_can_be_trained(calls):
    model = packed_model()
    block = model.bert.encoder.layer[1]
    block.output.LayerNorm = nn.LayerNorm(32)
    hf_mpq.prepare(model, "cpu-int8")
    model(**tiny_batch()).logits.sum().backward()
    assert block.output.LayerNorm.weight.grad.abs().sum() > 0 and len(calls) == 1


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("name", ["attention.self.query", "intermediate.dense", "output.LayerNorm"])
def test_inner_hooks_are_called(name, calls):
    model = hf_mpq.prepare(packed_model(), "cpu-int8")
    module, seen = model.bert.encoder.layer[0].get_submodule(name), []
    before = outputs(model)[0]
    handles = [
        module.register_forward_hook(lambda *_: seen.append("after")),
        module.register_forward_pre_hook(lambda *_: seen.append("before")),
    ]
    calls.clear()
    assert_close(outputs(model)[0], before, rtol=0, atol=0.1 * float(before.abs().max()))
    assert sorted(seen) == ["after", "before"] and len(calls) == 1
    for handle in handles:
        handle.remove()
    assert torch.equal(outputs(model)[0], before) and len(calls) == 3


@pytest.mark.usefixtures("compiler")
def test_hooks_of_a_layer_leave_it_fused(calls):
    model, seen = hf_mpq.prepare(packed_model(changes={"attn_implementation": "eager"}), "cpu-int8"), []
    model.bert.encoder.layer[0].register_forward_hook(lambda *_: seen.append("after"))
    with torch.no_grad():
        model(**tiny_batch(), output_attentions=True)
    assert seen == ["after"] and not calls
    outputs(model)
    assert len(seen) == len(calls) == 2


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("name", ["intermediate.dense", "output", "attention"])
def test_a_module_in_place_of_another_is_used(name):
    model = hf_mpq.prepare(packed_model(), "cpu-int8")
    block = model.bert.encoder.layer[0]
    twin = packed_model(bits=2).bert.encoder.layer[0]
    before = outputs(model)[0]
    block.set_submodule(name, twin.get_submodule(name))
    with hf_mpq.use_backend("reference"):
        want = outputs(model)[0]
    assert (want - before).abs().max() > 0.02
    assert_close(outputs(model)[0], want, rtol=0, atol=0.1 * float(want.abs().max()))
    assert (outputs(model)[0] - before).abs().max() > 0.01


@pytest.mark.parametrize("fields", [{}, {"quantizer": "minmax"}, {"activation_bits": None}], ids=str)
@pytest.mark.parametrize("backend", ["cpu-int8", "cpu-float", "auto"])
def test_a_decoder_reads_a_table_that_is_decoded_once(backend, fields, monkeypatch):
    if backend == "cpu-int8" and "activation_bits" in fields:
        pytest.skip("cpu-int8 multiplies integers")
    model = packed_model(changes={"head": "masked"}, **fields)
    want, real = outputs(model)[0], tiny_batch()["attention_mask"].bool()  # what is padding may be left at 0
    decoded, decode = [], PackedEmbedding.decode
    monkeypatch.setattr(PackedEmbedding, "decode", lambda table: decoded.append(table) or decode(table))
    hf_mpq.prepare(model, backend)
    for _ in range(3):
        assert_close(outputs(model)[0][real], want[real], rtol=0, atol=0.1 * float(want.abs().max()))
    assert decoded == [model.get_input_embeddings()]
    hidden = torch.randn(2, 3, 32)
    decoder = model.get_output_embeddings()
    got = decoder(hidden)
    with hf_mpq.use_backend("reference"):
        assert torch.equal(got, decoder(hidden))
        assert torch.equal(outputs(model)[0], want)


def test_copies_casts_and_the_reference_decode_again_for_a_decoder():
    model = packed_model(changes={"head": "masked"})
    hf_mpq.prepare(model, "cpu-int8")
    want, hidden = outputs(model)[0], torch.randn(2, 32)
    for twin in (copy.deepcopy(model), copy.deepcopy(model).double(), hf_mpq.prepare(model, "reference")):
        decoder = twin.get_output_embeddings()
        assert not decoder.embedding.prepared and outputs(twin)[0].dtype == decoder.weight.dtype
        assert torch.equal(decoder(hidden.to(twin.dtype)), decoder(hidden.to(twin.dtype)))
        assert_close(outputs(twin)[0].float(), want, rtol=0, atol=0.1 * float(want.abs().max()))


@pytest.mark.parametrize("activation", ["static", "dynamic-token"])
@pytest.mark.parametrize("head", ["sequence", "masked"])
def test_all_runs_without_a_compiler(head, activation, monkeypatch):
    for place in ("layer", "native"):
        monkeypatch.setattr(f"hf_mpq.runtime.int8.{place}.kernel", lambda: None)
    model = packed_model(activation=activation, changes={"head": head})
    want = outputs(model)[0]
    hf_mpq.prepare(model, "cpu-int8")
    assert not any(isinstance(block, Int8Layer) for block in encoder_blocks(model).values())
    layers = [layer for layer in model.modules() if isinstance(layer, PackedLinear)]
    assert all(type(layer.prepared["cpu-int8"]) is Int8Product for layer in layers)
    assert all(layer.prepared["cpu-int8"].made for layer in layers), "not left to the first pass"
    assert_close(outputs(model)[0], want, rtol=0, atol=0.1 * float(want.abs().max()))
    for got, expected in block_outputs(model, tiny_batch()):
        assert (got - expected).abs().median() < 1e-5 * expected.abs().max()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("kind", ["plain", "native"])
@pytest.mark.parametrize("grid", ["per token", "static"])
@pytest.mark.parametrize("signs", ["plus", "minus", "both"])
def test_sums_are_exact_at_their_largest(signs, grid, kind):
    """3,072 products of 255 and 127; with both signs they cancel after half of them, to what one float holds."""
    columns = 3072
    layer = linear_of(SubgroupLayout.of("channel", (40, columns)), (8,))
    signed = {
        "plus": torch.ones(columns),
        "minus": -torch.ones(columns),
        "both": torch.ones(columns).index_fill(0, torch.arange(columns // 2, columns), -1),
    }[signs]
    layer.weight.data.copy_(signed * 0.5)
    layer.weight.data[:, -1] = torch.linspace(-0.5, 0.5, 40)
    layer.calibrate()
    x = torch.ones(11, columns)
    layer.input_quantizer = ActivationQuantizer.from_spec(GRIDS[grid]).eval()
    layer.input_quantizer.calibrate(x)
    layer = pack_matrix(layer).eval()
    matrix = IntegerMatrix.of(layer)
    codes, at = layer.input_quantizer.encode(x)
    assert (codes == 255).all() and (matrix.levels[:, :-1].abs() == 127).all()
    sums = codes.double() @ matrix.levels.double().t()
    assert sums.abs().max() > 99e6 if signs != "both" else sums.abs().max() < 2**24
    want = sums * matrix.scale.double() * at.step.double() + matrix.bias.double()
    assert_close(product_of(layer, kind)(x).double(), want, rtol=5e-7, atol=1e-6)
