"""Codes that are not evenly spaced, or stand for no integers, are multiplied exactly or refused."""

import pytest
import torch
from torch.testing import assert_close

import hf_mpq
from hf_mpq.core import SubgroupLayout
from hf_mpq.exporters.base import EXPORTERS, unmet
from hf_mpq.nn import PackedLinear, encoder_blocks
from hf_mpq.nn.integers import IntegerMatrix
from hf_mpq.runtime import BACKENDS
from hf_mpq.runtime.cuda import TensorCoreProduct
from hf_mpq.runtime.cuda.integer_rows import IntegerRows, blocks_of
from hf_mpq.runtime.cuda.planes import PlaneTable
from hf_mpq.runtime.decoded import FloatProduct
from hf_mpq.runtime.int8 import Int8Layer, unsupported
from hf_mpq.weights import ENCODINGS, QUANTIZERS, Encoding
from tests.contracts.test_probes import Basis, BasisEncoding
from tests.runtime.test_int8 import GRIDS, layer_of, packed_model
from tests.tiny import HEADS, outputs, tiny_batch


class PowersEncoding(Encoding):
    """`sign * 2 ** (code // 2) * float`: integers, but not evenly spaced."""

    @classmethod
    def floats(cls, bits, nested=()):
        return 1

    @classmethod
    def integers(cls, codes, floats, bits, nested=()):
        levels = (1 - 2 * (codes & 1).to(torch.int16)) << (codes >> 1)
        return levels.to(torch.int8), floats[:, 0], torch.zeros_like(floats[:, 0])

    @classmethod
    def decode(cls, codes, floats, bits, nested=()):
        return cls.integers(codes, floats, bits)[0] * floats


class Powers(Basis):
    """The nearest signed power of two times a scale."""

    encoding = "probe-powers"

    def __init__(self, layout, candidates, scale_dtype=torch.float16):
        super().__init__(layout, candidates, scale_dtype)
        self.register_buffer("basis", torch.ones(layout.count, 1))

    def encode(self, weight, bits):
        floats = self.basis.to(self.scale_dtype).float()
        codes = torch.arange(2**bits, dtype=torch.uint8).expand(self.layout.count, -1)
        levels = self.layout.expand(PowersEncoding.decode(codes, floats, bits))
        return (weight.unsqueeze(-1) - levels.unsqueeze(1)).abs().argmin(-1).to(torch.uint8), floats

    def candidate(self, weight, bits):
        codes, floats = self.encode(weight.detach(), bits)
        return hf_mpq.core.replace_forward(weight, PowersEncoding.decode(codes, self.layout.expand(floats), bits))

    def _start(self, weight):
        return self.layout.reduce(weight.abs(), "amax").unsqueeze(1) / 8


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    for encoding, quantizer in ((BasisEncoding, Basis), (PowersEncoding, Powers)):
        monkeypatch.setitem(ENCODINGS._items, quantizer.encoding, encoding)
        monkeypatch.setitem(QUANTIZERS._items, quantizer.encoding, quantizer)


def uneven(quantizer: str, **fields):
    return packed_model(**{"bits": 3, "quantizer": quantizer, **fields})


@pytest.mark.parametrize("quantizer", ["probe-basis", "probe-powers"])
@pytest.mark.parametrize("head", ["sequence", "masked"])
def test_every_backend_multiplies_what_is_stored_or_says_why_not(head, quantizer):
    model = uneven(quantizer, changes={"head": head})
    real = slice(None) if head == "sequence" else tiny_batch()["attention_mask"].bool()
    want = outputs(model)[0][real]
    for name in ("auto", *BACKENDS):
        reason = None if name == "auto" else BACKENDS[name].unavailable(model)
        if reason is not None:
            fix = "cpu-float|CUDA" if name.startswith("cu") else "cpu-float|oneDNN|VNNI"
            with pytest.raises(ValueError, match=fix):
                hf_mpq.prepare(model, name)
            continue
        hf_mpq.prepare(model, name)
        assert_close(outputs(model)[0][real], want, rtol=0, atol=0.1 * float(want.abs().max()))
        if quantizer == "probe-basis":
            assert_close(outputs(model)[0][real], want, rtol=1e-4, atol=1e-5)


def test_no_integers_are_no_integer_products():
    assert "no integers" in BACKENDS["cpu-int8"].unavailable(uneven("probe-basis"))
    assert "no integers" not in str(BACKENDS["cpu-int8"].unavailable(uneven("probe-powers")))


@pytest.mark.skipif(unsupported() is not None, reason=str(unsupported()))
def test_one_such_layer_is_multiplied_in_float_among_the_others():
    model = packed_model(rules={"layer.0.output.dense": {"quantizer": "probe-basis", "bits": 3}})
    want = outputs(model)[0]
    hf_mpq.prepare(model, "cpu-int8")
    floats = [
        one
        for one in model.modules()
        if isinstance(one, PackedLinear) and isinstance(one.prepared["cpu-int8"], FloatProduct)
    ]
    first = next(iter(encoder_blocks(model).values()))
    assert floats == [first.output.dense] and not isinstance(first, Int8Layer)
    assert_close(outputs(model)[0], want, rtol=0, atol=0.1 * float(want.abs().max()))


@pytest.mark.parametrize("grid", ["per token", "static"])
def test_tensor_cores_read_levels_that_are_not_evenly_spaced(grid):
    """Slope and shift of the first two codes would be those of none of the others."""
    x = torch.randn(5, 37)
    layer = layer_of("probe-powers", SubgroupLayout.of("channel", (21, 37)), GRIDS[grid], x)
    assert blocks_of(layer) is None and PlaneTable.of(layer) is None
    rows = IntegerRows.of(layer)
    assert rows.exact and torch.equal(rows.levels * rows.scale.unsqueeze(1), layer.weight)
    assert IntegerMatrix.of(layer).exact
    assert_close(TensorCoreProduct(layer)(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*ENCODINGS, "probe-basis", "probe-powers"])
def test_an_encoding_is_what_it_says(name):
    encoding = ENCODINGS[name]
    for bits in {"probe-powers": range(2, 5), "basis": range(1, 5)}.get(name, range(1, 9)):
        nested = (2, bits) if name == "nested" else ()
        if name == "nested" and bits < 3:
            continue
        codes = torch.arange(2**bits, dtype=torch.uint8).unsqueeze(0)
        floats = torch.linspace(0.4, 0.9, encoding.floats(bits, nested)).unsqueeze(0)
        if name == "basis":
            floats[:, 1:] = torch.tensor([60.0, 27.0, 9.0, 4.0])[:bits]
        found = encoding.integers(codes, floats, bits, nested)
        assert (found is None) == (name == "probe-basis")
        if found is None:
            continue
        levels, scale, offset = found
        assert_close(levels * scale + offset, encoding.decode(codes, floats, bits, nested))
        gaps = levels.to(torch.int16).diff().unique()
        assert (len(gaps) == 1) >= encoding.evenly_spaced == (name not in ("probe-powers", "basis"))


@pytest.mark.parametrize("format", [name for name in EXPORTERS if EXPORTERS[name].integers])
def test_formats_of_integers_are_refused(format, tmp_path):
    if unmet(format):
        pytest.skip(unmet(format))
    with pytest.raises(ValueError, match=r"probe-basis.*export it as 'dense'"):
        hf_mpq.export(uneven("probe-basis"), format, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_float_format_takes_them(tmp_path):
    model = uneven("probe-basis", activation_bits=None)
    want = outputs(model)[0]
    hf_mpq.export(model, "dense", tmp_path / "out")
    assert_close(outputs(HEADS["sequence"].from_pretrained(tmp_path / "out"))[0], want, rtol=1e-4, atol=1e-5)
