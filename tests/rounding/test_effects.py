"""What each rounder is for: smaller errors than nearest rounding, layer by layer and block by block."""

from itertools import pairwise

import pytest
import torch

from hf_mpq.nn import MPQLinear
from hf_mpq.nn.bfloat16 import bf16_products
from hf_mpq.nn.blocks import evaluating
from hf_mpq.nn.walk import matrices
from hf_mpq.rounding import ROUNDERS, correct_biases
from hf_mpq.rounding.block_error import block_error, draw_calls, split_batches
from hf_mpq.rounding.walk import walk_blocks
from hf_mpq.rounding.waves import all_waves
from tests.rounding.models import batches, mixed, output_error, quantized, same, state_of, weights_of
from tests.tiny import MOST, tiny_model


@torch.no_grad()
def block_errors(model, reference, given, own_inputs=False) -> list[float]:
    """Error of every block, on the float model's hidden states, or behind the quantized blocks before it."""
    found = []
    with evaluating(model, reference):
        for step in walk_blocks(model, reference, given, ""):
            inputs = step.calls.hidden if own_inputs else step.wanted.hidden
            found.append(float(block_error(step, range(len(step.calls)), inputs)))
    return found


def padded(batch: dict, extra: int = 5) -> dict:
    ids, mask = batch["input_ids"], batch["attention_mask"]
    return {
        "input_ids": torch.nn.functional.pad(ids, (0, extra), value=1),
        "attention_mask": torch.nn.functional.pad(mask, (0, extra)),
    }


@pytest.mark.parametrize(
    "family, options",
    [
        ("bert", {}),
        ("albert", {}),
        ("deberta-v2", {}),
        ("modernbert", {}),
        ("bert", {"order": "natural"}),
        ("bert", {"asymmetric": True}),
        ("albert", {"asymmetric": True}),
    ],
)
def test_gptq_lowers_the_error_of_unseen_outputs(family, options):
    reference = tiny_model(family, "bare")
    model = quantized(reference, bits=3, groups=4)
    before = output_error(model, reference, batches(seed=6))
    ROUNDERS["gptq"](**options).round(model, reference, batches(6, 8))
    assert output_error(model, reference, batches(seed=6)) < 0.95 * before


@pytest.mark.parametrize("family, bf16", [("bert", False), ("bert", True), ("albert", None)])
def test_autoround_lowers_the_error_of_blocks(family, bf16):
    reference = tiny_model(family, "bare")
    model = quantized(reference, bits=2, groups=4)
    before = block_errors(model, reference, batches(), own_inputs=True)
    ROUNDERS["autoround"](iterations=20, bf16=bf16).round(model, reference, batches())
    after = block_errors(model, reference, batches(), own_inputs=True)
    assert all(a < 0.8 * b for a, b in zip(after, before))


def test_what_the_float_model_gives_is_exact():
    reference = tiny_model("bert", "bare")
    model = quantized(reference, bits=4, activation_bits=None)
    with evaluating(model, reference), bf16_products(model, True):
        steps = list(walk_blocks(model, reference, batches(), ""))
    with torch.no_grad(), evaluating(reference):
        assert torch.equal(steps[-1].wanted.outputs[0], reference(**batches()[0]).last_hidden_state)
    assert not torch.equal(steps[-1].calls.hidden[0], steps[-1].wanted.hidden[0])


def test_autoround_keeps_what_it_cannot_improve():
    reference = tiny_model("bert", "bare")
    for options in ({"lr": 0.0, "iterations": 2}, {"lr": 10.0, "iterations": 1}):
        model = mixed(reference)
        before, weights = state_of(model), weights_of(model)
        error = block_errors(model, reference, batches(1), own_inputs=True)[0]
        ROUNDERS["autoround"](**options).round(model, reference, batches(1))
        assert block_errors(model, reference, batches(1), own_inputs=True)[0] <= error
        if options["lr"] == 0:
            assert same(state_of(model), before) and same(weights_of(model), weights)


def test_autoround_without_scales():
    reference = tiny_model("bert", "bare")
    model = quantized(reference, bits=2, groups=4)
    before = state_of(model)
    ROUNDERS["autoround"](iterations=10, learn_scales=False).round(model, reference, batches())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.endswith("weight") for name in changed)


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_distillation_lowers_the_error_of_blocks(family):
    reference = tiny_model(family, "bare")
    model = quantized(reference, bits=3, groups=4)
    before, scales = block_errors(model, reference, batches()), state_of(model)
    ROUNDERS["lkd"](lr=3e-3, steps=8, batch_size=8).round(model, reference, batches())
    after = block_errors(model, reference, batches())
    assert all(a < b for a, b in zip(after, before))
    assert all(torch.equal(v, scales[n]) for n, v in model.state_dict().items() if ".program." in n)


@pytest.mark.parametrize("family, name", [("bert", "gptq"), ("deberta-v2", "nearest"), ("electra", "nearest")])
def test_correction_makes_mean_outputs_equal(family, name):
    reference = tiny_model(family)
    model = mixed(reference, float_dtype="float32", attention_bits=None)
    ROUNDERS[name]().round(model, reference, batches())
    before = {key: value for key, value in state_of(model).items() if "bias" not in key}
    correct_biases(model, reference, batches(), weighting="plain")
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    layers, checked = dict(matrices(model, MPQLinear)), 0
    with evaluating(model, reference):
        for wave in all_waves(model, reference, batches(), ""):
            means = {key: [0.0, 0] for key in wave.layers}
            for key, seen in wave.observations(wave.layers):
                means[key][0] = means[key][0] + (seen.wanted - seen.outputs).double().sum(0)
                means[key][1] += len(seen.outputs)
            for key, (total, tokens) in means.items():
                assert float((total / tokens * layers[key].live_rows).abs().max()) < 1e-4
                assert not layers[key].bias[~layers[key].live_rows].any()
                checked += 1
    assert checked == len(layers)


@pytest.mark.parametrize("weighting", ["relative", "plain"])
def test_correction_helps_unseen_outputs(weighting):
    reference = tiny_model("bert", "bare")
    model = quantized(reference, bits=2, groups=4)
    before = output_error(model, reference, batches(seed=6))
    correct_biases(model, reference, batches(6, 8), weighting)
    assert output_error(model, reference, batches(seed=6)) < 0.8 * before
    with pytest.raises(ValueError, match="weighting"):
        correct_biases(model, reference, batches(1), "none")


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_padding_does_not_matter(family):
    reference = tiny_model(family)
    models = [quantized(reference, bits=3, groups=7) for _ in range(2)]
    for model, given in zip(models, (batches(), [padded(batch) for batch in batches()])):
        ROUNDERS["gptq"]().round(model, reference, given)
    first, second = (weights_of(model) for model in models)
    differing = sum(int((first[name] != second[name]).sum()) for name in first)
    assert differing <= 0.01 * sum(weight.numel() for weight in first.values()), "but for ties of rounding"


@pytest.mark.parametrize("family", MOST)
def test_waves_reach_every_layer_once_in_the_order_they_run(family):
    reference = tiny_model(family)
    model, order = quantized(reference, bits=4), []
    layers = dict(matrices(model, MPQLinear))
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, name=name: order.append(name)) for name, layer in layers.items()
    ]
    with torch.no_grad():
        model(**batches(1)[0])
    for hook in hooks:
        hook.remove()
    ran = {name: position for position, name in reversed(list(enumerate(order)))}
    with evaluating(model, reference):
        waves = list(all_waves(model, None, batches(1), ""))
    assert sorted(name for wave in waves for name in wave.layers) == sorted(layers)
    firsts = [[ran[name] for name in wave.layers] for wave in waves]
    assert all(max(a) < min(b) for a, b in pairwise(firsts))


def test_small_batches_are_cut_from_given_ones():
    generator = torch.Generator().manual_seed(0)
    given = [{**batch, "labels": torch.zeros(4)} for batch in batches(2)]
    parts = split_batches(given, 3, generator)
    assert [len(part["input_ids"]) for part in parts] == [3, 1, 3, 1] and "labels" not in parts[0]
    together = torch.cat([part["input_ids"] for part in parts[:2]])
    assert sorted(together.tolist()) == sorted(given[0]["input_ids"].tolist())
    sizes = [
        [len(part["input_ids"]) for part in split_batches([{"input_ids": torch.zeros(rows, tokens)}], None, generator)]
        for rows, tokens in ((16, 10), (16, 30), (16, 50), (16, 500), (3, 10))
    ]
    assert sizes == [[16], [8, 8], [4] * 4, [4] * 4, [3]]
    reference = tiny_model("bert")
    with torch.no_grad(), evaluating(reference):
        step = next(walk_blocks(reference, reference, parts, ""))
        assert len(draw_calls(step.calls, 100, generator)) == 4
        assert sum(len(step.calls.hidden[call]) for call in draw_calls(step.calls, 2, generator)) >= 2
        assert float(block_error(step, range(4), step.calls.hidden)) == 0
