"""Integer sums are exact up to the widest matrix that is multiplied in integers, and refused beyond."""

import pytest
import torch
from torch.testing import assert_close

import hf_mpq
from hf_mpq.core import SubgroupLayout
from hf_mpq.exporters.base import unmet
from hf_mpq.nn.packing import pack_matrix
from hf_mpq.runtime.backends import MOST_COLUMNS
from hf_mpq.runtime.cuda import TensorCoreProduct
from hf_mpq.runtime.int8 import Int8Product, NativeProduct, unsupported, use_native_products
from hf_mpq.weights import ActivationQuantizer
from tests.nn.cases import linear_of
from tests.runtime.test_int8 import GRIDS
from tests.tiny import outputs, tiny_model

pytestmark = pytest.mark.skipif(unsupported() is not None, reason=str(unsupported()))
ROWS = 2


def widest(grid: str):
    """A layer of as many columns as there may be, all but one at the level -128, whose input is 255 everywhere."""
    layer = linear_of(SubgroupLayout.of("channel", (ROWS, MOST_COLUMNS)), (8,), quantizer="minmax")
    layer.weight.data.fill_(-0.5)
    layer.weight.data[:, -1] = 0.5
    layer.calibrate()
    x = torch.ones(3, MOST_COLUMNS)
    layer.input_quantizer = ActivationQuantizer.from_spec(GRIDS[grid]).eval()
    layer.input_quantizer.calibrate(x)
    return pack_matrix(layer).eval(), x


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("grid", ["per token", "static"])
def test_the_largest_sums_are_exact(grid):
    layer, x = widest(grid)
    levels, scale, offset = (part.double() for part in layer.integers())
    assert (levels[:, :-1] == -128).all() and levels.sum(1).min() * 255 < -(2**31) + 2**17
    want = 255 * levels.sum(1) * (scale / 255) + MOST_COLUMNS * offset + layer.bias
    plain = layer.prepared["cpu-int8"] = Int8Product(layer)
    use_native_products(layer)
    assert isinstance(layer.prepared["cpu-int8"], NativeProduct)
    for product in (plain, layer.prepared["cpu-int8"], TensorCoreProduct(layer)):
        assert_close(product(x).double(), want.expand(3, ROWS), rtol=2e-6, atol=0)


def test_wider_matrices_are_refused_by_name_or_multiplied_in_float(tmp_path):
    model = tiny_model("bert", num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=66_000)
    hf_mpq.pack(hf_mpq.quantize(model, hf_mpq.MPQConfig(bits=8, groups="matrix", embedding_bits=None)))
    want = outputs(model)[0]
    with pytest.raises(ValueError, match=r"layer.0.output.dense has 66000 columns.*use backend='cpu-float'"):
        hf_mpq.prepare(model, "cpu-int8")
    assert_close(outputs(hf_mpq.prepare(model, "auto"))[0], want, rtol=1e-4, atol=1e-5)
    if unmet("onnx") is None:
        with pytest.raises(ValueError, match=r"layer.0.output.dense has 66000 columns.*activations='float'"):
            hf_mpq.export(model, "onnx", tmp_path / "out")
