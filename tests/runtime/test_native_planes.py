"""What the kernel reads in bit planes, against the same levels in a copy, bit for bit."""

import copy
import gc
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

import hf_mpq
from hf_mpq.core import Assignment, MatrixAssignment
from hf_mpq.nn import PackedEmbedding, PackedLinear, body_of
from hf_mpq.nn.packed import PackedMatrix
from hf_mpq.runtime.int8 import unsupported
from hf_mpq.runtime.native import NAME, lowering
from hf_mpq.runtime.native.planes import StoredRows
from hf_mpq.weights import ENCODINGS
from tests.contracts.test_folding import pruned_model
from tests.runtime.test_int8 import packed_model
from tests.runtime.test_native import hidden, native, path, pytestmark, ragged  # noqa: F401
from tests.tiny import tiny_model

ODD = {"num_attention_heads": 3, "hidden_size": 51, "intermediate_size": 77}
NAMES = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
MATRICES = [f"{layer}.{name}" for layer in range(2) for name in (*NAMES, "intermediate.dense", "output.dense")]
EACH = {rf"layer\.{name}$": {"bits": 1 + number % 8} for number, name in enumerate(MATRICES)}
"""Every width from 1 to 8, and three of them read the same input."""
FIELDS = {
    "scaled": {"rules": EACH, "quantizer_options": {"two_bits": "integer"}},
    "scaled-half": {"rules": EACH},
    "affine": {"rules": EACH, "quantizer": "minmax"},
    "nested": {"nested": True, "bits": (2, 3, 8)},
}


def of_encoding(name: str):
    return packed_model(**{"changes": ODD, "activation": "static", **FIELDS[name]})


def mixed(bits=(0, 1, 4, 0, 3, 8), changes=ODD):
    """Rows of several precisions in each matrix, some of them pruned."""
    config = hf_mpq.MPQConfig(bits=(0, 1, 3, 4, 8), groups="channel", activation_bits=8)
    space = config.resolve(tiny_model("bert", **changes))
    given = {
        name: MatrixAssignment(tuple(bits[(row + len(name)) % len(bits)] for row in range(spec.layout.count)))
        for name, spec in space.weights.items()
        if spec.layout.count > 1
    }
    config.assignment = Assignment(given).to_dict()
    return hf_mpq.pack(hf_mpq.quantize(tiny_model("bert", **changes), config)).eval()


def copied(model, batch, monkeypatch):
    """Hidden states of an encoder whose levels are all copied."""
    with monkeypatch.context() as patch:
        patch.setattr(StoredRows, "of", lambda layer: None)
        return hidden(native(model), batch)


def in_planes(model, monkeypatch):
    """Prepared so that whatever can be is read in planes."""
    monkeypatch.setattr(lowering, "MOST_BITS", 8)
    return native(model)


def test_every_encoding_that_is_evenly_spaced_is_tried():
    assert set(FIELDS) == {name for name in ENCODINGS if ENCODINGS[name].evenly_spaced}
    for name in FIELDS:
        encoder = body_of(of_encoding(name)).encoder
        matrices = [one for one in encoder.modules() if isinstance(one, PackedLinear)]
        assert {one.stored.encoding for one in matrices} == {name}
        assert all(StoredRows.of(one) is not None for one in matrices)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("name", FIELDS)
def test_planes_give_what_copied_levels_give(name, monkeypatch):
    model, batch = of_encoding(name), ragged()
    for precision in FIELDS[name].get("bits", (None,)):
        if precision is not None:
            hf_mpq.set_precision(model, precision)
        want = copied(model, batch, monkeypatch)
        assert torch.equal(hidden(in_planes(model, monkeypatch), batch), want)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("changes", [ODD, {}], ids=["odd", "even"])
def test_rows_of_several_precisions_and_pruned_ones(changes, monkeypatch):
    model, batch = mixed(changes=changes), ragged()
    want = copied(model, batch, monkeypatch)
    assert want.std() > 0.1
    assert torch.equal(hidden(in_planes(model, monkeypatch), batch), want)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("kinds", [("pointwise",), ("heads",), ("pointwise", "value", "heads")], ids="-".join)
def test_what_is_pruned_away_leaves_the_planes(kinds, monkeypatch):
    model, batch = hf_mpq.pack(pruned_model("bert", set(kinds), activation_bits=8)).eval(), ragged()
    want = copied(model, batch, monkeypatch)
    assert torch.equal(hidden(in_planes(model, monkeypatch), batch), want)


def held(model) -> int:
    """Bytes of all that a prepared model keeps: its own buffers, what stands in for decoding, and the kernel."""
    seen = {one.data_ptr(): one.nbytes for one in (*model.parameters(), *model.buffers())}
    for module in model.modules():
        for product in module.prepared.values() if isinstance(module, PackedMatrix) else ():
            made = getattr(product, "made", None) or ()
            seen |= {one.data_ptr(): one.nbytes for one in made if isinstance(one, torch.Tensor)}
    return sum(seen.values()) + body_of(model).native.plan.bytes


@pytest.mark.parametrize("bits", [2, 4])
def test_a_model_takes_its_files_size(bits, tmp_path):
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "vocab_size": 2000}
    model = packed_model(changes=sizes, bits=bits, embedding_bits=4)
    model.save_pretrained(tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    hf_mpq.prepare(model, NAME)
    pooler = sum(one.numel() * 4 for one in (body_of(model).pooler.dense.weight, body_of(model).pooler.dense.bias))
    assert held(model) - (0 if unsupported() is None else pooler) < 1.3 * size  # without exact sums it is decoded
    tables = [one for one in body_of(model).modules() if isinstance(one, PackedEmbedding)]
    assert tables and all(one.prepared[NAME].made is None for one in tables)


def test_more_bits_are_copied():
    few, many = (native(packed_model(bits=bits)) for bits in (4, 8))
    matrices = sum(one.weight.numel() for one in body_of(many).encoder.modules() if isinstance(one, PackedLinear))
    assert body_of(many).native.plan.bytes - body_of(few).native.plan.bytes > 0.8 * matrices


def test_planes_outlive_what_becomes_of_the_model():
    model, batch = native(packed_model()), ragged()
    want = hidden(model, batch)
    again = native(pickle.loads(pickle.dumps(copy.deepcopy(model))))
    answer = body_of(model).native
    for module in model.modules():
        if isinstance(module, PackedMatrix):
            module._buffers = {name: values.clone() for name, values in module._buffers.items()}
    gc.collect()
    assert torch.equal(answer.answer(batch).last_hidden_state, want)
    del model, answer
    gc.collect()
    assert torch.equal(hidden(again, batch), want)


def test_weights_that_go_to_shared_memory_are_found_again():
    model, batch = native(packed_model()), ragged()
    want, plan = hidden(model, batch), body_of(model).native.plan
    ForkingPickler.dumps(model)  # as a queue of torch.multiprocessing does
    assert plan.moved()
    assert torch.equal(hidden(model, batch), want)
    assert body_of(model).native.plan is not plan and not body_of(model).native.plan.moved()
