"""Ways there and back that keep state, and refusals that lose nothing."""

import copy

import pytest
import torch

import hf_mpq
from hf_mpq import Assignment, MPQConfig
from hf_mpq.core import MatrixAssignment
from hf_mpq.nn import calibrate_activations
from hf_mpq.nn.walk import matrices
from hf_mpq.runtime import compact
from hf_mpq.weights import ACTIVATIONS
from tests.contracts.test_families import close
from tests.contracts.test_folding import pruned_assignment, unrounded_weight, zero_rows
from tests.contracts.test_sizes import bytes_on_disk
from tests.tiny import HEADS, MOST, outputs, tiny_batch, tiny_model


def state_of(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_state(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("family", MOST)
def test_folding_everything_at_once_keeps_the_float_function(family):
    """Producers and consumers pruned together: a pruned consumer row takes nothing."""
    model = tiny_model(family)
    config = MPQConfig(
        groups="channel",
        activation_bits=None,
        embedding_bits=None,
        projection_bits=None,
        float_dtype="float32",
        scale_dtype="float32",
    )
    bits = pruned_assignment(model, config, {"pointwise", "value", "scores", "heads"}).to_dict()
    for matrix in bits["matrices"].values():
        matrix["bits"] = tuple(0 if row % 7 == 5 else b for row, b in enumerate(matrix["bits"]))
    config.assignment = bits
    hf_mpq.quantize(model, config)
    for _, layer in matrices(model):
        layer.quantized_weight = lambda layer=layer: unrounded_weight(layer)
    for a, b in zip(outputs(model), outputs(zero_rows(family, bits))):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "activation", [name for name in ACTIVATIONS if ACTIVATIONS[name].stored_bytes and not ACTIVATIONS[name].packed_form]
)
@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_learned_ranges_survive_unpacking(family, activation, tmp_path):
    model = hf_mpq.quantize(tiny_model(family), MPQConfig(activation=activation, attention_bits=8))
    calibrate_activations(model, [tiny_batch()])
    trained = outputs(model)
    report = hf_mpq.size_report(model)
    hf_mpq.pack(model).save_pretrained(tmp_path)
    assert report.total_bytes == hf_mpq.size_report(model).total_bytes == bytes_on_disk(tmp_path)
    packed = state_of(model)
    hf_mpq.unpack(model)
    close(trained, outputs(model))
    model.save_pretrained(tmp_path / "unpacked")
    close(trained, outputs(HEADS["sequence"].from_pretrained(tmp_path / "unpacked")))
    assert same_state(hf_mpq.pack(model).state_dict(), packed)


@pytest.mark.parametrize("bits", [4, (0, 2, 4)], ids=str)
def test_groups_of_columns_survive_unpacking(bits):
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=bits, groups="columns:4"))
    for _, layer in hf_mpq.nn.walk.matrices(model):
        if layer.program.gate.searching:
            torch.nn.init.normal_(layer.program.gate.logits)
    hf_mpq.pack(model)
    before, packed = outputs(model), state_of(model)
    close(before, outputs(hf_mpq.unpack(model)))
    assert same_state(hf_mpq.pack(model).state_dict(), packed)


def test_masks_survive_unpacking():
    config = MPQConfig(
        groups=8,
        quantizer_options={"two_bits": "ternary"},
        mask="element",
        mask_options={"density": 0.7},
        bits=2,
        rules={"intermediate": {"bits": (0, 2)}},
    )
    model = hf_mpq.quantize(tiny_model("bert"), config)
    packed = state_of(hf_mpq.pack(model))
    assert same_state(hf_mpq.pack(hf_mpq.unpack(model)).state_dict(), packed)


def test_nested_models_survive_unpacking_and_keep_their_precision(tmp_path):
    config = MPQConfig(bits=(2, 4, 8), nested=True, switchable_norms=True, rules={r"layer\.0\.": {"bits": 8}})
    model = hf_mpq.quantize(tiny_model("bert"), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lower_" in name:
                parameter += 0.1
    expected = {bits: outputs(hf_mpq.set_precision(model, bits)) for bits in (8, 2)}
    model.save_pretrained(tmp_path)
    close(outputs(HEADS["sequence"].from_pretrained(tmp_path)), expected[2])
    hf_mpq.pack(model)
    close(outputs(model), expected[2])
    packed = state_of(model)
    hf_mpq.unpack(hf_mpq.set_precision(model, 8))
    close(outputs(model), expected[8])
    for bits in expected:
        close(outputs(hf_mpq.set_precision(model, bits)), expected[bits])
    assert same_state(hf_mpq.pack(model).state_dict(), packed)


def complementary(model) -> tuple[Assignment, Assignment]:
    """Two assignments that prune different feed-forward rows."""
    current = hf_mpq.assignment_of(model)
    found = []
    for parity in (0, 1):
        found.append(
            Assignment(
                {
                    name: MatrixAssignment(
                        tuple(0 if "intermediate" in name and i % 2 == parity else 4 for i in range(len(matrix.bits)))
                        if "layer." in name
                        else matrix.bits
                    )
                    for name, matrix in current.matrices.items()
                }
            )
        )
    return found[0], found[1]


def test_folded_rows_cannot_come_back():
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(0, 4)))
    first, second = complementary(model)
    hf_mpq.fix(hf_mpq.fix(model, first), first)
    before, values = state_of(model), outputs(model)
    with pytest.raises(ValueError, match="folded away before"):
        hf_mpq.fix(model, second)
    assert same_state(model.state_dict(), before)
    assert hf_mpq.assignment_of(model) == hf_mpq.Assignment(first.matrices, hf_mpq.assignment_of(model).activation_bits)
    close(values, outputs(model), 0)


def test_a_pack_that_fails_changes_nothing():
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(activation="static"))
    before = state_of(model)
    with pytest.raises(ValueError, match="never observed"):
        hf_mpq.pack(model)
    assert same_state(model.state_dict(), before)
    calibrate_activations(model, [tiny_batch()])
    hf_mpq.pack(model)


def test_gates_are_projected_into_the_budget(tmp_path):
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(2, 4, 8), groups=8, budget="3.3bits"))
    with torch.no_grad():
        for _, layer in matrices(model):
            if layer.program.gate.searching:
                layer.program.gate.logits.normal_()
    likeliest = hf_mpq.assignment_of(model)
    hf_mpq.fix(model)
    assert 3.1 < hf_mpq.size_report(model).average_bits <= 3.3
    assert hf_mpq.assignment_of(model) != likeliest
    model.save_pretrained(tmp_path)
    close(outputs(model), outputs(HEADS["sequence"].from_pretrained(tmp_path)), 0)


@pytest.mark.parametrize("source, target", [("token", "sequence"), ("masked", "sequence"), ("question", "bare")])
@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "mpnet"])
def test_trainable_storage_fits_heads_with_new_projections(family, source, target, tmp_path):
    model = hf_mpq.quantize(tiny_model(family, source), MPQConfig(bits=4))
    model.save_pretrained(tmp_path)
    again = HEADS[target].from_pretrained(tmp_path)
    assert outputs(again)
    for name, layer in matrices(again):
        if "layer" in name:
            assert torch.equal(layer.weight, dict(matrices(model))[name].weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_keep_float32_scales(dtype, tmp_path):
    source = tiny_model("bert").to(dtype)
    source.save_pretrained(tmp_path / "float")
    config = MPQConfig(bits=(0, 2, 4), quantizer="lsq")
    loaded = HEADS["sequence"].from_pretrained(tmp_path / "float", quantization_config=config, dtype=dtype)
    in_memory = hf_mpq.quantize(copy.deepcopy(source), config)
    close(outputs(loaded), outputs(in_memory), 0)
    loaded.save_pretrained(tmp_path / "trainable")
    again = HEADS["sequence"].from_pretrained(tmp_path / "trainable", dtype=dtype)
    layer = again.bert.encoder.layer[0].output.dense
    assert layer.weight.dtype == dtype and layer.program.quantizer.step.dtype == torch.float32
    assert layer.program.gate.logits.dtype == torch.float32
    close(outputs(loaded), outputs(again), 0)
    hf_mpq.pack(again)
    with pytest.raises(ValueError, match="float32"):
        hf_mpq.unpack(again)


def test_compacted_models_are_not_taken_apart():
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4, rules={"intermediate": {"bits": 0}}))
    compact(hf_mpq.pack(model))
    before = outputs(model)
    for verb in (hf_mpq.unpack, lambda one: one.dequantize()):
        with pytest.raises(ValueError, match="compacted"):
            verb(model)
    close(before, outputs(model), 0)


def test_attention_must_run_through_its_quantizers():
    plain = tiny_model("mpnet")
    with pytest.raises(ValueError, match="query, key and value"):
        hf_mpq.quantize(plain, MPQConfig(attention_bits=8, rules={r"attn\.[qkv]$": {"bits": None}}))
    assert not list(matrices(plain)), "nothing was replaced"
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(attention_bits=8))
    model.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match="set_attn_implementation"):
        hf_mpq.pack(model)
    model.set_attn_implementation("mpq")
    assert hf_mpq.pack(model).dequantize().config._attn_implementation == "sdpa"
