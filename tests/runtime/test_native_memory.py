"""Whole encoders in one call: what is made of the weights beside the stored codes."""

import pytest
import torch

import hf_mpq
from hf_mpq.nn.packed import PackedLinear
from hf_mpq.runtime.backends import BACKENDS
from hf_mpq.runtime.later import Deferred
from tests.runtime.test_int8 import packed_model
from tests.tiny import tiny_batch

REASON = BACKENDS["cpu-native"].unavailable(packed_model())
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def made(model):
    """Names of the encoder's matrices of which something was made."""
    layers = ((name, module) for name, module in model.bert.encoder.named_modules() if isinstance(module, PackedLinear))
    products = ((name, product) for name, layer in layers for product in layer.prepared.values())
    return [name for name, product in products if isinstance(product, Deferred) and product.made is not None]


def test_nothing_is_decoded_for_layers_that_one_call_runs():
    model = hf_mpq.prepare(packed_model(), "cpu-native")
    with torch.no_grad():
        model(**tiny_batch())
    assert not made(model)


def test_what_stands_back_is_made_where_the_layers_run_alone():
    packed = packed_model()
    with torch.no_grad():
        expected = packed(**tiny_batch(), output_attentions=True)
        model = hf_mpq.prepare(packed, "cpu-native")
        found = model(**tiny_batch(), output_attentions=True)
    assert made(model)
    torch.testing.assert_close(found.logits, expected.logits, atol=2e-3, rtol=1e-3)


@pytest.mark.full
def test_a_graph_is_traced_through_what_stands_back():
    model = hf_mpq.prepare(packed_model(), "cpu-native")
    with torch.no_grad():
        found = torch.compile(model, backend="eager")(**tiny_batch()).logits
        assert made(model)
        torch.testing.assert_close(found, model(**tiny_batch()).logits, atol=2e-3, rtol=1e-3)
