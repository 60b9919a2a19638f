"""What every quantizer writes is run by every backend and written by every export, or refused with a reason."""

import copy

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.exporters.base import EXPORTERS, unmet
from hf_mpq.nn import calibrate_activations
from hf_mpq.runtime import BACKENDS
from hf_mpq.weights import ACTIVATIONS, QUANTIZERS
from tests.tiny import HEADS, outputs, tiny_batch, tiny_model

CODES = {
    name: {"quantizer": name, "bits": 2, "rules": {"attention": {"bits": 3}}} for name in QUANTIZERS if name != "nested"
} | {
    "nested": {"bits": (2, 4, 8), "nested": True},
    "transformed": {"bits": 4, "transforms": {"unit-rows": {}}},
    "masked": {"bits": 4, "mask": "element"},
    "n:m": {"bits": 4, "mask": "n:m"},
    "sparse": {"bits": 8, "mask": "element", "mask_options": {"density": 0.1}},
}
REMEMBERED = [name for name in ACTIVATIONS if ACTIVATIONS[name].stored_bytes and not ACTIVATIONS[name].packed_form]


def packed(name: str, **fields):
    config = MPQConfig(groups=5, **CODES[name], **fields)
    return hf_mpq.pack(hf_mpq.quantize(tiny_model("bert", num_hidden_layers=1), config)).eval()


def check_backends(model) -> None:
    """Every backend gives the packed outputs, as near as its activations allow, or says why it cannot."""
    want = outputs(model)[0]
    for name in ("auto", *BACKENDS):
        prepared = copy.deepcopy(model)
        reason = None if name == "auto" else BACKENDS[name].unavailable(prepared)
        if reason is not None:
            with pytest.raises(ValueError):
                hf_mpq.prepare(prepared, name)
            continue
        hf_mpq.prepare(prepared, name)
        torch.testing.assert_close(outputs(prepared)[0], want, rtol=0, atol=0.1 * float(want.abs().max()))


def check_exports(model, folder, formats) -> None:
    """Files of every format are written, or refused by name; the dense ones answer as the model does."""
    for name in formats:
        if unmet(name):
            continue
        try:
            hf_mpq.export(copy.deepcopy(model), name, folder / name, calibration=[tiny_batch()])
        except ValueError as refused:
            assert "export it as" in str(refused)
            continue
        assert any((folder / name).iterdir())
        if name == "dense":
            again = HEADS["sequence"].from_pretrained(folder / name)
            want = outputs(model)[0]
            rounded = any(getattr(module, "input_quantizer", None) is not None for module in model.modules())
            atol = 0.1 * float(want.abs().max()) if rounded else 1e-4  # its inputs are float
            torch.testing.assert_close(outputs(again)[0], want, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("name", CODES)
def test_every_backend_runs_what_a_quantizer_writes(name):
    check_backends(packed(name))


@pytest.mark.parametrize("name", CODES)
def test_the_dense_export_is_the_model(name, tmp_path):
    check_exports(packed(name, activation_bits=None), tmp_path, ["dense"])


def packed_with_ranges(name, output=5, intermediate=3):
    """With inputs of a kind at 8 bits, and at others where outputs and feed-forward layers begin."""
    config = MPQConfig(
        bits=4,
        activation=name,
        activation_bits=8,
        attention_bits=8,
        rules={"output": {"activation_bits": output}, "intermediate": {"activation_bits": intermediate}},
    )
    model = hf_mpq.quantize(tiny_model("bert", num_hidden_layers=1), config)
    calibrate_activations(model, [tiny_batch()])
    return hf_mpq.pack(model).eval()


@pytest.mark.parametrize("name", REMEMBERED)
def test_every_backend_runs_the_inputs_that_a_range_was_learned_for(name):
    check_backends(packed_with_ranges(name))


@pytest.mark.full
@pytest.mark.parametrize("name", REMEMBERED)
def test_every_export_writes_the_inputs_that_a_range_was_learned_for(name, tmp_path):
    check_exports(packed_with_ranges(name, 7, 6), tmp_path, list(EXPORTERS))


@pytest.mark.full
@pytest.mark.parametrize("name", CODES)
def test_every_export_writes_it_or_says_why_not(name, tmp_path):
    check_exports(packed(name), tmp_path, list(EXPORTERS))
