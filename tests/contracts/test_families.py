"""Every family with every head: quantize, pack, save and load again, with one mixed assignment."""

import pytest
import torch
from safetensors import safe_open

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import Assignment, MatrixAssignment
from tests.tiny import FAMILIES, HEADS, MOST, outputs, tiny_model

MIXED = (0, 2, 3, 4, 8)


def mixed_assignment(model, config: MPQConfig) -> Assignment:
    """Every precision in every encoder matrix; whole pruned blocks, so that folding has something to do."""
    matrices = {}
    for number, (name, spec) in enumerate(config.resolve(model).weights.items()):
        count = spec.layout.count
        bits = tuple(MIXED[(group + number) % 5] for group in range(count)) if spec.role == "encoder" else (8,) * count
        matrices[name] = MatrixAssignment(bits)
    return Assignment(matrices)


def mixed_config(model, **options) -> MPQConfig:
    config = MPQConfig(groups=10, **options)
    config.assignment = mixed_assignment(model, config).to_dict()
    return config


def close(first, second, tolerance=1e-5):
    assert len(first) == len(second) > 0
    for a, b in zip(first, second):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("family", "head"),
    [
        (family, head)
        if family == "bert" or (number + place) % 2 == 0
        else pytest.param(family, head, marks=pytest.mark.full)
        for number, family in enumerate(FAMILIES)
        for place, head in enumerate(HEADS)
    ],
)
def test_trained_is_packed_is_reloaded(family, head, tmp_path):
    model = tiny_model(family, head)
    before = outputs(model)
    hf_mpq.quantize(model, mixed_config(model))
    trained = outputs(model)
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(before, trained)), "quantization must change something"
    weights = {n: m.quantized_weight().detach() for n, m in hf_mpq.nn.walk.matrices(model)}
    report = hf_mpq.size_report(model)

    hf_mpq.pack(model)
    close(trained, outputs(model))
    for name, layer in hf_mpq.nn.walk.matrices(model, hf_mpq.nn.packed.PackedMatrix):
        assert torch.equal(layer.weight, weights[name]), name

    model.save_pretrained(tmp_path)
    again = HEADS[head].from_pretrained(tmp_path)
    close(outputs(model), outputs(again), 0)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    on_disk = sum(t.numel() * t.element_size() for t in tensors.values())
    assert on_disk == report.total_bytes == hf_mpq.size_report(again).total_bytes

    again.save_pretrained(tmp_path / "again")
    with safe_open(tmp_path / "again" / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(tensors)
        assert all(torch.equal(file.get_tensor(name), tensors[name]) for name in tensors)


@pytest.mark.parametrize("family", MOST)
def test_trainable_storage_reloads(family, tmp_path):
    model = tiny_model(family)
    hf_mpq.quantize(model, mixed_config(model, quantizer="lsq"))
    model.save_pretrained(tmp_path)
    again = HEADS["sequence"].from_pretrained(tmp_path)
    close(outputs(model), outputs(again), 0)
    assert hf_mpq.assignment_of(again) == hf_mpq.assignment_of(model)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("family", MOST)
def test_in_memory_equals_from_pretrained(family, tmp_path):
    model = tiny_model(family)
    config = mixed_config(model)
    model.save_pretrained(tmp_path)
    loaded = HEADS["sequence"].from_pretrained(tmp_path, quantization_config=config)
    hf_mpq.quantize(model, config)
    close(outputs(model), outputs(loaded), 0)
    assert loaded.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("family", MOST)
def test_attention_can_be_quantized(family, tmp_path):
    model = tiny_model(family)
    plain = outputs(hf_mpq.quantize(tiny_model(family), MPQConfig(bits=8)))
    hf_mpq.quantize(model, MPQConfig(bits=8, attention_bits=4))
    quantized = outputs(model)
    assert not torch.equal(plain[0], quantized[0])
    hf_mpq.pack(model).save_pretrained(tmp_path)
    close(quantized, outputs(HEADS["sequence"].from_pretrained(tmp_path)))


@pytest.mark.parametrize("family", MOST)
def test_unpack_and_dequantize(family):
    model = tiny_model(family, "masked")
    hf_mpq.quantize(model, mixed_config(model, activation_bits=None))
    trained = outputs(model)
    hf_mpq.pack(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    hf_mpq.unpack(model)
    close(trained, outputs(model))
    hf_mpq.pack(model)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    plain = model.dequantize()
    close(trained, outputs(plain))
    assert not any("MPQ" in type(m).__name__ or "Packed" in type(m).__name__ for m in plain.modules())
