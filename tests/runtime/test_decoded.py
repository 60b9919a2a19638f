"""What a prepared model keeps decoded, and what can be traced of it."""

from itertools import accumulate, repeat
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

import hf_mpq
from hf_mpq.nn import PackedLinear
from hf_mpq.nn.packed import active_backend
from hf_mpq.runtime import automatic
from hf_mpq.runtime.decoded import DecodedTable
from hf_mpq.runtime.int8 import unsupported
from tests.runtime.test_int8 import packed_model
from tests.tiny import outputs, tiny_batch

BOTH = ("cpu-int8", "cpu-float")


def decoded(model, backend: str) -> list[bool]:
    """Of every linear layer, whether its weight is kept for a backend."""
    return [one.prepared[backend].made is not None for one in model.modules() if isinstance(one, PackedLinear)]


def without_kernel(monkeypatch) -> None:
    """Where no whole encoder runs in one call, auto chooses among ways to multiply."""
    monkeypatch.setattr("hf_mpq.runtime.native.encoder.library", lambda: None)


@pytest.fixture(params=BOTH)
def fastest(request, monkeypatch):
    """The backend that is the fastest, by a clock that goes on when another runs."""
    if unsupported() is not None:
        pytest.skip(unsupported())
    without_kernel(monkeypatch)
    times = {name: accumulate(repeat(float(name != request.param))) for name in BOTH}
    clock = SimpleNamespace(perf_counter=lambda: next(times[active_backend()]))
    monkeypatch.setattr(automatic, "time", clock)
    return request.param


def test_auto_keeps_only_what_it_chose(fastest):
    model = hf_mpq.prepare(packed_model("mpnet"))
    assert not any(decoded(model, "cpu-float"))
    want = outputs(model)
    assert set(model.fastest_backend.chosen.values()) == {fastest}
    kept = decoded(model, "cpu-float")
    assert all(kept) if fastest == "cpu-float" else not any(kept)
    assert all(torch.equal(got, expected) for got, expected in zip(outputs(model), want))
    with hf_mpq.use_backend("cpu-float"):
        assert_close(outputs(model)[0], want[0], rtol=0, atol=0.1 * float(want[0].abs().max()))
    assert all(decoded(model, "cpu-float"))


def test_auto_keeps_what_it_chose_at_another_shape(fastest):
    model = hf_mpq.prepare(packed_model("mpnet"))
    model.fastest_backend.chosen[64, 64] = "cpu-float"
    outputs(model)
    assert all(decoded(model, "cpu-float"))


def test_a_table_that_both_read_is_kept(fastest):
    model = hf_mpq.prepare(packed_model("mpnet", changes={"head": "masked"}))
    outputs(model)
    table = model.get_input_embeddings().prepared
    assert isinstance(table["cpu-float"], DecodedTable) and table["cpu-float"] is table["cpu-int8"]
    assert table["cpu-float"].made is not None


def test_float_inputs_are_multiplied_with_one_decoded_weight(monkeypatch):
    without_kernel(monkeypatch)
    if unsupported() is not None:
        pytest.skip(unsupported())
    model = hf_mpq.prepare(packed_model(rules={"output.dense": {"activation_bits": None}}))
    layer = model.bert.encoder.layer[0].output.dense
    assert layer.input_quantizer is None and layer.prepared["cpu-float"] is layer.prepared["cpu-int8"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "family, backend, fields",
    [
        ("bert", "cpu-float", {"changes": {"head": "masked"}}),
        ("modernbert", "cpu-float", {"activation": "static"}),
        ("bert", "auto", {"activation_bits": None}),
    ],
    ids=str,
)
def test_a_prepared_model_is_exported_before_its_first_call(family, backend, fields):
    model = hf_mpq.prepare(packed_model(family, **fields), backend)
    with torch.no_grad():
        program = torch.export.export(model, (), tiny_batch(), strict=False).module()
        assert_close(program(**tiny_batch()).logits, model(**tiny_batch()).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family, backend", [("mpnet", "reference"), ("mpnet", "cpu-int8"), ("bert", "auto")])
def test_what_cannot_be_exported_says_what_can(family, backend):
    if backend != "reference" and unsupported() is not None:
        pytest.skip(unsupported())
    model = hf_mpq.prepare(packed_model(family), backend)
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"prepare\(model, 'cpu-float'\)"):
        torch.export.export(model, (), tiny_batch(), strict=False)
