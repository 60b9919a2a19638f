"""Masks x encodings: one function, counted alike by the file, the report and the cost, read by everyone."""

import json

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.cost import COSTS
from hf_mpq.format import MASK_ENCODINGS, PackedFormatError
from hf_mpq.nn.packed import PackedMatrix
from tests.contracts.test_round_trips import same_state, state_of
from tests.contracts.test_sizes import bytes_on_disk
from tests.plugin.models import as_version_1, read_config, signed_anew, write_tensors
from tests.plugin.models import read_tensors as tensors_of
from tests.tiny import HEADS, outputs, tiny_model
from tests.weights.cases import CHOOSING

OPTIONS = {"element": ({"density": 0.1}, {"density": 0.6}), "n:m": ({}, {"kept": 1, "block": 4})}
CASES = [
    pytest.param(
        mask,
        options | {"encoding": encoding},
        id=f"{mask}-{encoding}-{number}",
        marks=pytest.mark.full if number and encoding else (),
    )
    for mask in CHOOSING
    for number, options in enumerate(OPTIONS[mask])
    for encoding in (None, *MASK_ENCODINGS)
    if (mask, encoding) != ("element", "n:m")
]


def quantized(mask, options, **fields):
    config = MPQConfig(bits=4, groups=6, mask=mask, mask_options=options, rules={"output": {"bits": 3}}, **fields)
    return hf_mpq.quantize(tiny_model("bert", num_hidden_layers=1), config).eval()


def encodings_of(model):
    return {m.stored.mask.encoding.name for m in model.modules() if isinstance(m, PackedMatrix) and m.stored.mask}


@pytest.mark.parametrize(("mask", "options"), CASES)
def test_one_function_and_one_size_everywhere(mask, options, tmp_path):
    model = quantized(mask, options)
    space, assignment, trained = hf_mpq.plugin.space.space_of(model), hf_mpq.assignment_of(model), outputs(model)
    report = hf_mpq.size_report(model)
    packed = state_of(hf_mpq.pack(model))
    model.save_pretrained(tmp_path)
    best = {"n:m": "n:m", 0.1: "runs", 0.6: "flags"}[options.get("density", mask)]
    assert encodings_of(model) == {options["encoding"] or best}
    again = HEADS["sequence"].from_pretrained(tmp_path)
    for one in (model, again):
        assert all(torch.equal(a, b) for a, b in zip(outputs(model), outputs(one)))
    torch.testing.assert_close(outputs(again), trained, rtol=0, atol=1e-5)
    assert report.total_bytes == hf_mpq.size_report(again).total_bytes == bytes_on_disk(tmp_path)
    cost, places = COSTS["size"](space).of(assignment), "runs" in encodings_of(model)
    assert cost == pytest.approx(bytes_on_disk(tmp_path), rel=0.01 if places or mask == "element" else 0)
    assert same_state(hf_mpq.pack(hf_mpq.unpack(again)).state_dict(), packed)


def test_folded_columns_that_cut_blocks_are_stored_as_flags(tmp_path):
    for step, encoding in ((4, "n:m"), (3, "flags")):  # of whole blocks, and of parts of them
        model = quantized("n:m", {"encoding": "n:m"}, modules_to_not_convert=["attention"])
        layer = model.bert.encoder.layer[0].output.dense
        layer.program.live_columns[: 4 * step : 1 if step == 4 else 3] = False
        layer.program.refresh()
        weight = layer.quantized_weight()
        packed = hf_mpq.nn.packing.pack_matrix(layer)
        assert packed.stored.mask.encoding.name == encoding and torch.equal(packed.weight, weight)


@pytest.mark.parametrize("options", [{"density": 1.0}, {"kept": 4}], ids=CHOOSING)
def test_a_mask_that_keeps_everything_costs_nothing(options):
    masked = quantized("element" if "density" in options else "n:m", options)
    plain = hf_mpq.pack(quantized(None, {}))
    space, assignment = hf_mpq.plugin.space.space_of(masked), hf_mpq.assignment_of(masked)
    assert COSTS["size"](space).of(assignment) == hf_mpq.size_report(plain).total_bytes
    assert same_state(hf_mpq.pack(masked).state_dict(), plain.state_dict())
    assert same_state(hf_mpq.pack(hf_mpq.unpack(masked)).state_dict(), plain.state_dict())


@pytest.mark.parametrize("mask", CHOOSING)
def test_masks_of_the_first_format_are_read_for_ever(mask, tmp_path):
    """It has flags only, and says nothing of encodings."""
    model = hf_mpq.pack(quantized(mask, OPTIONS[mask][0] | {"encoding": "flags"}))
    model.save_pretrained(tmp_path)
    as_version_1(tmp_path)
    assert "mask_encoding" not in json.dumps(read_config(tmp_path))
    again = HEADS["sequence"].from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), outputs(again)))
    best = hf_mpq.pack(quantized(mask, OPTIONS[mask][0]))
    assert all(torch.equal(a, b) for a, b in zip(outputs(best), outputs(again)))
    assert hf_mpq.size_report(best).total_bytes < hf_mpq.size_report(again).total_bytes


DAMAGE = {
    "unknown": ({"mask_encoding": "huffman"}, "unknown mask encoding 'huffman'.*flags, n:m, runs"),
    "other": ({"mask_encoding": "runs"}, "a mask has another size than what it keeps"),
    "pattern": ({"mask_encoding": {"name": "n:m", "kept": 1, "block": 4}}, "a mask has another size"),
    "options": ({"mask_encoding": {"name": "n:m", "kept": 9, "block": 4}}, "blocks that keep 9 of 4"),
    "type": ({"mask_encoding": 3}, "mask_encoding"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_encodings_that_do_not_fit_are_refused(case, tmp_path):
    changes, message = DAMAGE[case]
    hf_mpq.pack(quantized("n:m", {})).save_pretrained(tmp_path)
    as_version_1(tmp_path)  # whose config is not signed, so that it is looked at
    config = read_config(tmp_path)
    for name, matrix in config["quantization_config"]["packed"]["matrices"].items():
        if name.startswith("encoder"):
            matrix.update(changes)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(PackedFormatError, match=f"(?s){message}"):
        HEADS["sequence"].from_pretrained(tmp_path)


def test_a_mask_that_keeps_another_number_is_refused(tmp_path):
    hf_mpq.pack(quantized("element", {"density": 0.1})).save_pretrained(tmp_path)
    tensors = tensors_of(tmp_path)
    name = next(name for name in tensors if name.endswith(".mask"))
    tensors[name] = torch.full_like(tensors[name], 255)
    write_tensors(tmp_path, tensors, signed_anew(tmp_path, tensors))
    with pytest.raises(PackedFormatError, match="its mask keeps another number of weights"):
        HEADS["sequence"].from_pretrained(tmp_path)


def test_how_a_mask_is_stored_is_checked_where_it_is_written():
    with pytest.raises(ValueError, match="not stored as 'n:m': use flags, runs"):
        quantized("element", {"encoding": "n:m"})
    with pytest.raises(ValueError, match="unknown mask encoding 'rnus'; did you mean 'runs'"):
        quantized("element", {"encoding": "rnus"})
