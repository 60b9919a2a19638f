"""A nested model below what it stores, with planes left out, or both, is one model to everybody who asks."""

import copy

import pytest
import torch

import hf_mpq
from hf_mpq.cost import BitOperations
from hf_mpq.exporters.base import EXPORTERS
from hf_mpq.hub import write_card
from hf_mpq.report import bit_map
from hf_mpq.report.figures.group_bits import block_bits
from hf_mpq.report.measures.model_space import space_of
from hf_mpq.report.measures.summary import summarize
from hf_mpq.runtime import BACKENDS, compact
from tests.contracts.test_quantizers_in_backends import check_backends, check_exports
from tests.plugin.models import reload
from tests.plugin.test_precisions import MIXED, nested_model, same
from tests.tiny import outputs, tiny_batch

WAYS = ("mixed", "extracted", "partial", "mixed partial")
MEAN = {"mixed": None, "extracted": 4, "partial": None, "mixed partial": None}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    nested_model(activation_bits=8).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=WAYS)
def model(request, whole, tmp_path_factory):
    """What is used below the top, in each way; nobody changes it."""
    if request.param == "mixed":
        return hf_mpq.set_precision(reload(whole), MIXED)
    if request.param == "extracted":
        return reload(hf_mpq.extract(whole, 4, tmp_path_factory.mktemp("out")))
    loaded = reload(whole, bits=MIXED)
    return loaded if request.param == "partial" else hf_mpq.set_precision(loaded, {"value": 2})


def test_every_backend_runs_it(model):
    check_backends(model)


def test_the_dense_export_is_the_model(model, tmp_path):
    check_exports(model, tmp_path, ["dense"])


@pytest.mark.full
def test_every_export_writes_it_or_says_why_not(model, tmp_path):
    check_exports(model, tmp_path, list(EXPORTERS))


def test_a_prepared_model_is_prepared_anew_after_a_change(model):
    prepared = hf_mpq.prepare(copy.deepcopy(model), "cpu-float")
    hf_mpq.set_precision(prepared, 2)
    expected = outputs(hf_mpq.set_precision(copy.deepcopy(model), 2))[0]
    torch.testing.assert_close(outputs(prepared)[0], expected, rtol=0, atol=1e-5)
    for name in BACKENDS:
        if BACKENDS[name].unavailable(prepared) is None:
            again = outputs(hf_mpq.prepare(prepared, name))[0]
            torch.testing.assert_close(again, expected, rtol=0, atol=0.1 * float(expected.abs().max()))


def test_copies_compaction_and_files_are_it_too(model, tmp_path):
    assert same(copy.deepcopy(model), model)
    torch.testing.assert_close(outputs(compact(copy.deepcopy(model)))[0], outputs(model)[0], rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path)
    assert same(reload(tmp_path), model)
    plain = copy.deepcopy(model).dequantize()
    weight = plain.bert.encoder.layer[0].output.dense.weight
    assert torch.equal(weight, model.bert.encoder.layer[0].output.dense.weight)


def test_reports_tell_what_is_stored_and_what_is_used(model, tmp_path):
    model.save_pretrained(tmp_path)
    report = hf_mpq.size_report(model)
    layers = hf_mpq.nn.precision.nested_matrices(model)
    sizes = {name: layer.stored.layout.shape[0] * layer.stored.layout.shape[1] for name, layer in layers.items()}
    used = sum(layer.used_precision * sizes[name] for name, layer in layers.items()) / sum(sizes.values())
    stored = sum(layer.stored.served[-1] * sizes[name] for name, layer in layers.items()) / sum(sizes.values())
    assert report.used_bits == pytest.approx(used) and report.average_bits == pytest.approx(stored)
    assert (f"{used:.2f} of them used" in str(report)) == (used < stored)
    assert report.total_bytes == report.stored_bytes == hf_mpq.size_report(tmp_path).total_bytes
    space, point = space_of(model)
    assert {name: set(one.bits) for name, one in point.matrices.items() if name in layers} == {
        name: {layer.used_precision} for name, layer in layers.items()
    }
    assert hf_mpq.cost.StoredSize(space).of(point) == report.total_bytes
    summary = summarize(model, measure=False)
    assert summary.bops == BitOperations(space, 128).of(point) and summary.used_bits == report.used_bits
    drawn = {part.block.name: set(part.bits.tolist()) for part in block_bits(model) if part.block.name in layers}
    assert drawn == {name: {layer.used_precision} for name, layer in layers.items()}
    assert f"{used:.2f} bits per encoder weight" in bit_map(model)._suptitle.get_text()
    card = write_card(tmp_path).read_text()
    served = set.intersection(*(set(layer.nested) for layer in layers.values()))
    assert ("One set of codes serves" in card) and f"{used:.2f} bits\nper encoder weight are used" in card
    assert " and ".join(map(str, sorted(served)[-2:])) in card


def test_inputs_are_of_the_batch(model):
    """That the tests above compare something."""
    assert outputs(model)[0].abs().max() > 1e-2 and tiny_batch()["input_ids"].shape == (3, 11)
