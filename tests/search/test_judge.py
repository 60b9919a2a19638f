"""A judge measures an assignment as `fix` would make it, on the live model, which then is as it was."""

import copy
from dataclasses import replace

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import ModelShape
from hf_mpq.nn import MPQLinear, calibrate_activations, encoder_blocks
from hf_mpq.nn.walk import matrices, take_path
from hf_mpq.search import Judge
from hf_mpq.search.judge import taking
from hf_mpq.weights import ACTIVATIONS, GATES
from tests.contracts.test_fix import OPEN, random_assignment
from tests.tiny import MOST, outputs, tiny_batch, tiny_model
from tests.weights.cases import going_with

RANGES = [name for name in ACTIVATIONS if name != "probabilities" and not ACTIVATIONS[name].packed_form]
UNPRUNED = {
    name: {**fields, "bits": tuple(b for b in fields["bits"] if b)} if isinstance(fields["bits"], tuple) else fields
    for name, fields in OPEN.items()
}
SEARCHED = [name for name in GATES if GATES[name](1, (2, 4)).searching and not GATES[name].sets_width]


def logits(model) -> torch.Tensor:
    """What a measure sees."""
    with torch.no_grad():
        return torch.cat([value.flatten() for value in outputs(model)])


def check(model, seeds=2):
    """Every measure is that of a fixed copy, and nothing stays."""
    state, before = {name: value.clone() for name, value in model.state_dict().items()}, logits(model)
    specs = {name: layer.spec for name, layer in matrices(model)}
    inputs = {name: layer.input_quantizer for name, layer in matrices(model) if layer.spec.activation}
    bits = {name: quantizer.bits for name, quantizer in inputs.items()}
    seen = []
    judges = [
        Judge(model, lambda live: seen.append(logits(live)) or 0.0, keeps_blocks=keeps) for keeps in (False, True)
    ]
    for given in [random_assignment(model, seed) for seed in range(seeds)] * 2:
        for judge in judges:
            assert judge.damage(given) == 0
            assert torch.equal(seen[-1], logits(hf_mpq.fix(copy.deepcopy(model), given)))
    assert torch.equal(logits(model), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(layer.spec is specs[name] for name, layer in matrices(model))
    assert all(layer.input_quantizer is inputs[name] for name, layer in matrices(model) if name in inputs)
    assert {name: quantizer.bits for name, quantizer in inputs.items()} == bits


@pytest.mark.parametrize("kind", UNPRUNED)
def test_it_measures_what_fix_makes(kind):
    check(hf_mpq.quantize(tiny_model("bert"), MPQConfig(**UNPRUNED[kind])))


@pytest.mark.parametrize("family", MOST)
def test_it_measures_every_family(family):
    check(hf_mpq.quantize(tiny_model(family), MPQConfig(bits=(2, 4), embedding_bits=(4, 8))), seeds=1)


@pytest.mark.parametrize("gate", SEARCHED)
@pytest.mark.parametrize("activation", RANGES)
def test_ranges_and_gates_are_as_before(activation, gate):
    """Also learned steps, which other bits rescale."""
    config = MPQConfig(bits=(2, 4), gate=gate, activation=activation, **going_with(gate))
    model = hf_mpq.quantize(tiny_model("bert"), config)
    calibrate_activations(model, [tiny_batch()])
    check(model)


def test_pruned_rows_are_zero_and_not_folded():
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(0, 8), activation_bits=None)).double()
    given = random_assignment(model, 0)
    with taking(model, given):
        weights = {name: layer.quantized_weight() for name, layer in matrices(model)}
    for name, layer in matrices(model):
        pruned = layer.spec.layout.expand(torch.tensor(given.matrices[name].bits)) == 0
        assert not layer.spec.layout.lines(weights[name])[pruned].any() and layer.program.live_columns.all()


def test_a_path_that_was_taken_is_taken_again():
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(2, 8)))
    name, layer = next(one for one in matrices(model) if one[1].program.gate.searching)
    take_path(model, {name: torch.ones(layer.spec.layout.count, dtype=torch.int64)})
    path, before = layer.program.gate.path, logits(model)
    with pytest.raises(RuntimeError, match="stopped"):

        def stop(model):
            raise RuntimeError("stopped")

        Judge(model, stop).damage(random_assignment(model, 0))
    assert path is not None and torch.equal(layer.program.gate.path, path) and torch.equal(logits(model), before)


def test_what_fix_refuses_is_refused():
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(2, 4)))
    given, judge = random_assignment(model, 0), Judge(model, lambda live: pytest.fail("it is not measured"))
    with pytest.raises(ValueError, match="which is not applied"):
        judge.damage(hf_mpq.Assignment(given.matrices, shape=ModelShape(hidden=8)))
    other = random_assignment(hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(3, 5))), 0)
    with pytest.raises(ValueError, match=r"bits \[(3|5|3, 5)\] are not among the candidates \(2, 4\)"):
        judge.damage(other)


def test_trials():
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(2, 4)))
    given = random_assignment(model, 0)
    with pytest.raises(ValueError, match="this judge trains nothing"):
        Judge(model, lambda live: 0.0).trained_damage(given)
    assert Judge(model, lambda live: 0.0, lambda one: float(one is given)).trained_damage(given) == 1


def test_only_weights_that_differ_are_quantized_again(monkeypatch):
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(2, 4)))
    made, plain = [], MPQLinear.coded_weight
    monkeypatch.setattr(MPQLinear, "coded_weight", lambda layer: made.append(layer) or plain(layer))
    batches = 3
    judge = Judge(model, lambda live: [logits(live) for _ in range(batches)] and 0.0)
    linear = {name: layer for name, layer in matrices(model) if isinstance(layer, MPQLinear)}
    given = random_assignment(model, 0)
    judge.damage(given)
    assert len(made) == len(linear)
    name = next(iter(linear))
    made.clear()
    other = replace(given.matrices[name], bits=tuple(6 - bits for bits in given.matrices[name].bits))
    judge.damage(replace(given, matrices={**given.matrices, name: other}))
    assert made == [linear[name]]
    made.clear()
    with torch.no_grad():
        list(linear.values())[-1].weight.add_(0.1)
    judge.damage(given)
    assert made == [linear[name], list(linear.values())[-1]]


def test_only_layers_that_differ_are_run_again():
    """A search's next try is a matrix away from where it is."""
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(2, 4)))
    ran, blocks = [], encoder_blocks(model)
    for name, block in blocks.items():
        block.register_forward_pre_hook(lambda block, given, name=name: ran.append(name))
        block.forward = lambda *args, run=block.forward, name=name, **kwargs: ran.remove(name) or run(*args, **kwargs)
    judge = Judge(model, lambda live: logits(live) is None, keeps_blocks=True)  # what was only asked stays in `ran`
    given = random_assignment(model, 0)
    judge.damage(given)
    assert not ran
    last = list(blocks)[-1]
    name = next(name for name in given.matrices if name.startswith(f"{last}."))
    other = replace(given.matrices[name], bits=tuple(6 - bits for bits in given.matrices[name].bits))
    judge.damage(replace(given, matrices={**given.matrices, name: other}))
    assert ran == list(blocks)[:-1]


@pytest.mark.parametrize("what", ["norm", "range"])
def test_a_layer_that_was_changed_is_run_again(what):
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(2, 4), activation="static"))
    calibrate_activations(model, [tiny_batch()])
    seen, given = [], random_assignment(model, 0)
    judge = Judge(model, lambda live: seen.append(logits(live)) or 0.0, keeps_blocks=True)
    judge.damage(given)
    if what == "range":
        calibrate_activations(model, [{key: value[:1, :3] for key, value in tiny_batch().items()}])
    else:
        next(value for name, value in model.named_parameters() if name.endswith("output.LayerNorm.weight")).data.mul_(
            0.5
        )
    judge.damage(given)
    assert torch.equal(seen[-1], logits(hf_mpq.fix(copy.deepcopy(model), given))) and not torch.equal(*seen)
