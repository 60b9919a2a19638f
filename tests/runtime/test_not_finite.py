"""NaN and infinity stay visible: where float products answer with them, no backend gives a plausible answer."""

from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch.testing import assert_close

import hf_mpq
from hf_mpq.core import SubgroupLayout
from hf_mpq.nn import PackedLayerNorm
from hf_mpq.runtime.cuda import TensorCoreProduct
from hf_mpq.runtime.decoded import FloatProduct
from hf_mpq.runtime.int8 import Int8Product, NativeProduct, unsupported, use_native_products
from tests.runtime.test_int8 import GRIDS, layer_of, packed_model
from tests.tiny import tiny_batch

pytestmark = pytest.mark.skipif(unsupported() is not None, reason=str(unsupported()))
NONE = {"NaN": float("nan"), "infinity": float("inf"), "-infinity": -float("inf")}
PLACES = (
    "embeddings.word_embeddings",
    "embeddings.LayerNorm",
    *(
        f"encoder.layer.0.{name}"
        for name in (
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "attention.output.LayerNorm",
            "intermediate.dense",
            "output.dense",
            "output.LayerNorm",
        )
    ),
)
STATIC_OR_NOT = pytest.mark.parametrize("activation", ["dynamic-token", "static"])


def one_layer(**fields):
    return packed_model(**{**fields, "changes": {"num_hidden_layers": 1, **fields.get("changes", {})}})


def batch():
    """Of which every row looks up the first entry of the table."""
    given = tiny_batch(2, 7)
    given["input_ids"][:, 0] = 0
    return given


@torch.no_grad()
def logits(model):
    return model(**batch()).logits


@contextmanager
def spoilt(octets, number: float):
    """The first float is another, as no file that is checked holds it."""
    before = octets.clone()
    octets[:2] = torch.tensor([number], dtype=torch.float16).view(torch.uint8)
    yield
    octets.copy_(before)


def answers(model, backend, attention=torch.float32, places=PLACES):
    """For one float that is none in every place, whether each row of logits is finite, `(2,)` bool."""
    for place in places:
        module = model.bert.get_submodule(place)
        names = ("weight_values", "bias_values") if isinstance(module, PackedLayerNorm) else ("scales", "bias_values")
        for name, what in ((name, what) for name in names if name in module._buffers for what in ("NaN", "infinity")):
            with spoilt(module.get_buffer(name), NONE[what]):
                found = logits(hf_mpq.prepare(model, backend, attention))
            yield (place, name, what), torch.isfinite(found).all(1)


@cache
def shown(**changes):
    """Places and numbers that an answer of float products shows: all but some infinities, of which softmax makes
    numbers."""
    found = dict(answers(one_layer(activation_bits=None, changes=changes), "reference"))
    seen = {at for at, finite in found.items() if not finite.any()}
    assert all(what != "NaN" for *_, what in found.keys() - seen) and len(found) - len(seen) < 4
    return seen


def assert_shown(model, backend, attention=torch.float32, places=PLACES, **changes):
    """One float is enough for every row; without it, the answer is what it was."""
    clean = logits(hf_mpq.prepare(model, backend, attention))
    for at, finite in answers(model, backend, attention, places):
        assert not finite.any() or at not in shown(**changes), at
    assert torch.equal(logits(hf_mpq.prepare(model, backend, attention)), clean) and torch.isfinite(clean).all()


@STATIC_OR_NOT
@pytest.mark.parametrize("backend", ["reference", "cpu-float"])
def test_float_products_show_it(backend, activation):
    assert_shown(one_layer(activation=activation), backend)


@STATIC_OR_NOT
@pytest.mark.parametrize("attention", [torch.float32, torch.bfloat16], ids=str)
def test_integer_products_show_it(attention, activation, multiplied):
    assert_shown(one_layer(activation=activation), "cpu-int8", attention)


@STATIC_OR_NOT
@pytest.mark.parametrize("hidden_act", ["relu", "gelu_new"])
def test_every_activation_function_shows_it(hidden_act, activation, multiplied):
    changes, places = {"hidden_act": hidden_act}, ["encoder.layer.0.intermediate.dense"]
    assert_shown(one_layer(activation=activation, changes=changes), "cpu-int8", places=places, **changes)


@STATIC_OR_NOT
@pytest.mark.parametrize("what", NONE)
def test_an_input_spoils_its_own_sequence_only(what, activation, multiplied):
    model = hf_mpq.prepare(packed_model(activation=activation), "cpu-int8")
    embeddings = model.get_input_embeddings()(tiny_batch(3, 7)["input_ids"]).detach()
    with torch.no_grad():
        clean = model(inputs_embeds=embeddings).logits
        embeddings[1, 4, 17] = NONE[what]
        found = model(inputs_embeds=embeddings).logits
    assert not torch.isfinite(found[1]).any() and torch.equal(found[[0, 2]], clean[[0, 2]])


def products(layer):
    """Every product that stands in for the decoding of a layer, by name."""
    yield "float", FloatProduct(layer)
    yield "tensor cores", TensorCoreProduct(layer)
    layer.prepared["cpu-int8"] = Int8Product(layer)
    yield "oneDNN", layer.prepared["cpu-int8"]
    use_native_products(layer)
    yield "native", layer.prepared["cpu-int8"]


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("quantizer", ["symmetric", "minmax"])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_product_loses_the_tokens_that_hold_it(grid, quantizer):
    """At every place of a vector, and behind the last whole one."""
    x = torch.randn(6, 37)
    layer = layer_of(quantizer, SubgroupLayout.of("channel", (21, 37)), GRIDS[grid], x)
    for name, product in products(layer):
        clean, kind = product(x), f"{name}, {type(product).__name__}"
        for column, number in zip((0, 15, 16, 31, 32, 36), (*NONE.values(), *NONE.values())):
            bad = x.clone()
            bad[2, column], bad[4] = number, number
            found = product(bad)
            assert not torch.isfinite(found[[2, 4]]).any(), (kind, column, number)
            if grid != "per tensor":
                assert torch.equal(found[[0, 1, 3, 5]], clean[[0, 1, 3, 5]]), (kind, column, number)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("size", [1e-37, 1e-38, 1e-41, 1e-45, 0.0, 1e37])
@pytest.mark.parametrize("grid", ["per token", "per token, symmetric"])
def test_the_smallest_and_largest_numbers_are_numbers(grid, size):
    x = torch.randn(3, 37) * size
    layer = layer_of("symmetric", SubgroupLayout.of("channel", (21, 37)), GRIDS[grid], x)
    layer.prepared["cpu-int8"] = Int8Product(layer)
    use_native_products(layer)
    assert isinstance(layer.prepared["cpu-int8"], NativeProduct)
    with hf_mpq.use_backend("reference"):
        want = layer(x)
    assert_close(layer(x), want, rtol=1e-4, atol=1e-5 * size + 1e-34)
