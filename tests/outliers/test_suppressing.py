"""What a rule is given, what it chooses, and what the verb refuses."""

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import ActivationSpec
from hf_mpq.cost import COSTS
from hf_mpq.nn import MPQLinear
from hf_mpq.nn.walk import matrices
from hf_mpq.outliers import OUTLIERS, InputGroup, record_inputs, suppress_outliers
from hf_mpq.outliers.shift_scale import _Trial
from tests.contracts.test_round_trips import same_state, state_of
from tests.nn.cases import LAYOUTS, linear_of
from tests.outliers.cases import batches, spiky_model, spiky_quantized
from tests.tiny import tiny_batch


def groups_of(model, given=None) -> list[InputGroup]:
    return record_inputs(model, dict(matrices(model, MPQLinear)), given or batches(), 1000)


def test_layers_that_share_an_input_share_a_group():
    groups = groups_of(spiky_quantized("bert"))
    names = [[name.removeprefix("encoder.layer.") for name in group.layers] for group in groups]
    assert ["0.attention.self.query", "0.attention.self.key", "0.attention.self.value"] in names
    assert ["1.intermediate.dense"] in names and ["1.output.dense"] in names
    norms = {name: group.norm for group in groups for name in group.layers}
    model_norms = {n: norms[f"encoder.layer.0.{n}"] is not None for n in ("attention.self.key", "output.dense")}
    assert model_norms == {"attention.self.key": True, "output.dense": False}
    assert norms["encoder.layer.1.attention.self.query"] is not norms["encoder.layer.0.attention.self.query"]


@pytest.mark.parametrize(
    "family, name, norm",
    [
        ("bert", "encoder.layer.1.intermediate.dense", "bert.encoder.layer.1.attention.output.LayerNorm"),
        ("bert", "encoder.layer.1.attention.self.value", "bert.encoder.layer.0.output.LayerNorm"),
        ("distilbert", "transformer.layer.0.attention.q_lin", "distilbert.embeddings.LayerNorm"),
        ("deberta-v2", "encoder.layer.0.attention.self.query_proj", "deberta.embeddings.LayerNorm"),
        ("modernbert", "layers.0.attn.Wqkv", "model.embeddings.norm"),
        ("modernbert", "layers.1.mlp.Wi", "model.layers.1.mlp_norm"),
    ],
)
def test_the_norm_behind_an_input_is_found(family, name, norm):
    model = spiky_quantized(family)
    found = next(group.norm for group in groups_of(model) if name in group.layers)
    assert found is model.get_submodule(norm)


def test_padding_does_not_count():
    model, batch = spiky_quantized("bert"), tiny_batch()
    seen = []
    dense = model.bert.encoder.layer[0].intermediate.dense
    hook = dense.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    group = next(g for g in groups_of(model, [batch]) if "encoder.layer.0.intermediate.dense" in g.layers)
    hook.remove()
    real = seen[0][batch["attention_mask"].bool()]
    assert torch.equal(group.low, real.amin(0)) and torch.equal(group.high, real.amax(0))
    assert torch.equal(group.tokens, real) and dense.input_quantizer is not None


def one_group(x, activation_bits=4, **options) -> InputGroup:
    layer = linear_of(LAYOUTS["channel"], (8,), activation=ActivationSpec("dynamic-token", activation_bits), **options)
    return InputGroup({"layer": layer}, None, x.amin(0), x.amax(0), x)


def test_shift_and_scale_bring_an_outlier_back():
    x = torch.randn(200, 11)
    x[:, 4] = 60 + 25 * x[:, 4]
    group, rule = one_group(x), OUTLIERS["os+"]()
    layer = group.layers["layer"]
    with torch.no_grad():
        layer.weight[:, 4] /= 25
    expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
    before = (layer(x) - expected).square().mean()
    scale, shift = rule.affine(group)
    assert shift[4] == pytest.approx(60, abs=30) and scale[4] == scale.max() > 2 and scale.min() == 1
    layer.set_input_affine(scale, shift)
    layer.calibrate()
    assert (layer(x) - expected).square().mean() < 0.02 * before


def test_more_thresholds_are_never_worse():
    reach = torch.logspace(0, 1.5, 11)
    group = one_group(torch.randn(100, 11) * reach)
    layer, errors = group.layers["layer"], []
    layer.weight.data /= reach
    for points in (1, 10, 100):
        errors.append(_Trial(layer, group).error(OUTLIERS["os+"](points=points, patience=None).affine(group)))
    assert errors[0] >= errors[1] >= errors[2] and errors[2] < 0.9 * errors[0]


def test_without_a_bias_there_is_no_shift():
    reach = torch.logspace(0, 1.5, 11)
    group = one_group((torch.randn(50, 11) + 1) * reach, bias=False)
    group.layers["layer"].weight.data /= reach
    scale, shift = OUTLIERS["os+"]().affine(group)
    assert shift is None and scale.max() > 1


def test_room_can_be_made_in_advance():
    patterns = {r"encoder\.layer\..*": ["scale", "shift"], "pooler.dense": ["scale"]}
    config = MPQConfig(bits=(2, 8), activation_bits=4, input_affine=patterns, groups=4)
    reserved = COSTS["size"](config.resolve(spiky_model("bert")))
    model = hf_mpq.fix(hf_mpq.quantize(spiky_model("bert"), config))
    assignment = hf_mpq.assignment_of(model)
    assert reserved.of(assignment) == hf_mpq.size_report(model).total_bytes
    suppress_outliers(model, batches(), "gamma")
    assert hf_mpq.size_report(model).total_bytes < reserved.of(assignment)
    space = model.config.quantization_config.resolve(spiky_model("bert"))
    assert COSTS["size"](space).of(assignment) == hf_mpq.size_report(model).total_bytes
    usages = hf_mpq.nn.usages(model)
    without = MPQConfig(bits=(2, 8), activation_bits=4, groups=4).resolve(spiky_model("bert"))
    extra = COSTS["size"](space).expected(usages) - COSTS["size"](without).expected(usages)
    assert float(extra) == COSTS["size"](space).of(assignment) - COSTS["size"](without).of(assignment)


def test_refusals_change_nothing():
    model = hf_mpq.quantize(spiky_model("bert"), MPQConfig(bits=(2, 4), activation_bits=4))
    before = state_of(model)
    with pytest.raises(ValueError, match=r"hf_mpq\.fix"):
        suppress_outliers(model, batches())
    with pytest.raises(ValueError, match="none were given"):
        suppress_outliers(hf_mpq.fix(model), [])
    with pytest.raises(ValueError, match="unknown rule"):
        suppress_outliers(model, batches(), "smooth")
    assert {k for k in before if "gate" not in k} <= state_of(model).keys()
    hf_mpq.pack(model)
    packed = state_of(model)
    with pytest.raises(ValueError, match="unpack"):
        suppress_outliers(model, batches())
    assert same_state(packed, state_of(model))
    with pytest.raises(ValueError, match="'scale', 'shift'"):
        MPQConfig(input_affine={"pooler": ["gain"]})
