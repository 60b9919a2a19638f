"""Every rule in every family: the same float function, smaller errors, and the way to disk and back."""

import copy

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.cost import COSTS
from hf_mpq.nn import MPQLinear
from hf_mpq.nn.families import FAMILIES as TABLE
from hf_mpq.nn.walk import matrices
from hf_mpq.outliers import OUTLIERS, record_inputs, suppress_outliers
from hf_mpq.runtime import CompactLinear, compact
from tests.contracts.test_families import close
from tests.contracts.test_folding import pruned_assignment
from tests.contracts.test_round_trips import same_state, state_of
from tests.contracts.test_sizes import bytes_on_disk
from tests.outliers.cases import EXACT, batches, make_float, spiky_model, spiky_quantized
from tests.tiny import HEADS, MOST, outputs

every_family = pytest.mark.parametrize("family", MOST)
FEW = {"gamma": {}, "os+": {"points": 10}}
every_rule = pytest.mark.parametrize("rule", list(OUTLIERS))


def affines(model) -> dict[str, tuple[str, ...]]:
    return {name: layer.spec.affine for name, layer in matrices(model, MPQLinear) if layer.spec.affine}


def harm(model) -> dict[str, float]:
    """Relative squared error of each layer behind a normalisation, from its own input."""
    errors = {}
    for group in record_inputs(model, dict(matrices(model, MPQLinear)), batches(), 1000):
        for name, layer in group.layers.items() if group.norm is not None else ():
            expected = torch.nn.functional.linear(layer.normalised(group.tokens), layer.kept_weight(), layer.bias)
            errors[name] = float((layer(group.tokens) - expected).square().sum() / expected.square().sum())
    return errors


@every_rule
@every_family
def test_the_float_function_stays(family, rule):
    model = spiky_quantized(family, **EXACT)
    expected = outputs(make_float(copy.deepcopy(model)))
    suppress_outliers(model, batches(), rule, **FEW[rule])
    assert affines(model)
    close(outputs(make_float(model)), expected, 1e-5)


@every_rule
@every_family
@torch.no_grad()
def test_outliers_do_less_harm(family, rule):
    model = spiky_quantized(family)
    before = harm(model)
    after = harm(suppress_outliers(model, batches(), rule, **FEW[rule]))
    assert len(before) >= 4 and sum(after.values()) < 0.5 * sum(before.values())
    assert rule == "gamma" or all(after[name] < 1.1 * before[name] for name in before)


@every_rule
@every_family
def test_there_and_back(family, rule, tmp_path):
    model = suppress_outliers(spiky_quantized(family), batches(), rule, **FEW[rule])
    trained = outputs(model)
    model.save_pretrained(tmp_path / "trainable")
    again = HEADS["sequence"].from_pretrained(tmp_path / "trainable")
    assert same_state(again.state_dict(), model.state_dict())
    close(outputs(again), trained, 0)
    report, space = hf_mpq.size_report(model), model.config.quantization_config.resolve(spiky_model(family))
    assignment = hf_mpq.assignment_of(model)
    hf_mpq.pack(model).save_pretrained(tmp_path)
    close(outputs(model), trained)
    assert report.total_bytes == hf_mpq.size_report(model).total_bytes == bytes_on_disk(tmp_path)
    assert COSTS["size"](space).of(assignment) == report.total_bytes
    close(outputs(HEADS["sequence"].from_pretrained(tmp_path)), trained)
    packed = state_of(model)
    close(outputs(hf_mpq.unpack(model)), trained)
    assert same_state(hf_mpq.pack(model).state_dict(), packed)
    unquantized = [m for m in model.modules() if getattr(m, "input_quantizer", None)]
    for layer in unquantized:
        layer.input_quantizer = None
    expected = outputs(model)
    close(outputs(model.dequantize()), expected, 2e-5)


@every_family
def test_folded_and_compacted_models_stay_one_function(family, tmp_path):
    plain = spiky_model(family)
    config = MPQConfig(groups="channel", activation_bits=4)
    config.assignment = pruned_assignment(plain, config, {"pointwise", "value", "scores", "heads"}).to_dict()
    model = suppress_outliers(hf_mpq.quantize(plain, config), batches(), "os+", points=10)
    trained = outputs(model)
    close(outputs(hf_mpq.pack(model)), trained)
    model.save_pretrained(tmp_path)
    assert hf_mpq.size_report(model).total_bytes == bytes_on_disk(tmp_path)
    close(outputs(compact(model)), trained)
    assert any(isinstance(module, CompactLinear) for module in model.modules())


@every_family
def test_rows_may_be_folded_afterwards(family):
    """The constants of pruned rows pass through the shift and scale of their reader."""
    config = MPQConfig(groups="channel", bits=(0, 8), gate="softmax", activation_bits=4, **EXACT)
    plain = spiky_model(family)
    pruned = pruned_assignment(plain, config, {"pointwise", "value"})
    config.assignment = {"matrices": {name: {"bits": [8] * len(m.bits)} for name, m in pruned.matrices.items()}}
    model = suppress_outliers(hf_mpq.quantize(plain, config), batches(), "os+", points=3)
    readers = {
        f"{p}.{n}"
        for p in TABLE[family].layer_prefixes(model)
        for n in (TABLE[family].names.down, TABLE[family].names.output)
    }
    assert readers & set(affines(model))
    rows = {name: torch.tensor(m.bits) == 0 for name, m in pruned.matrices.items()}
    expected = copy.deepcopy(model)
    for name, layer in matrices(expected, MPQLinear):
        layer.weight.data[rows[name]] = 0
    hf_mpq.fix(model, pruned)
    close(outputs(make_float(model)), outputs(make_float(expected)), 2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_keep_the_channels(dtype, tmp_path):
    model = suppress_outliers(spiky_quantized("bert"), batches())
    model.save_pretrained(tmp_path / "trainable")
    layers = dict(matrices(model, MPQLinear))
    again = HEADS["sequence"].from_pretrained(tmp_path / "trainable", dtype=dtype)
    for name, layer in matrices(again, MPQLinear):
        assert layer.weight.dtype == dtype and layer.spec.affine == layers[name].spec.affine
        assert all(
            torch.equal(layer.channel_values(part), layers[name].channel_values(part)) for part in layer.spec.affine
        )
    expected = outputs(again)
    hf_mpq.pack(again).save_pretrained(tmp_path)
    close(outputs(HEADS["sequence"].from_pretrained(tmp_path, dtype=dtype)), expected, 0)


@pytest.mark.parametrize("activation", ["static", "learned"])
def test_remembered_ranges_are_observed_anew(activation):
    model = spiky_quantized("bert", activation=activation, activation_bits=8)
    hf_mpq.nn.calibrate_activations(model, batches())
    suppress_outliers(model, batches(), "os+", points=10)
    query = dict(matrices(model))["encoder.layer.0.attention.self.query"]
    read = record_inputs(model, {"query": query}, batches(), 8)[0]
    low, high = ((value - query.input_shift) / query.input_scale for value in (read.low, read.high))
    grid = query.input_quantizer.grid(torch.zeros(1, 32))
    assert float(grid.step * 255) == pytest.approx(float(high.max().clamp(min=0) - low.min().clamp(max=0)), rel=0.1)
    hf_mpq.pack(model)
    with pytest.raises(ValueError, match="fixed for good"):
        suppress_outliers(hf_mpq.unpack(model), batches())
