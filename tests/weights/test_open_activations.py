"""Inputs whose bits are open: a gate of one group over a quantizer for each candidate."""

import copy

import pytest
import torch
from torch import nn

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import ActivationSpec
from hf_mpq.nn import MPQLinear, calibrate_activations
from hf_mpq.nn.walk import derive, gates, is_open, matrices, usages
from hf_mpq.weights import ACTIVATIONS, GATES, OpenActivation
from hf_mpq.weights.gates import FollowingGate
from tests.plugin.models import close, reload
from tests.tiny import outputs, tiny_batch, tiny_model

CANDIDATES = (2, 4, 8)
KINDS = [name for name in ACTIVATIONS if not ACTIVATIONS[name].packed_form]
SEARCHING = [name for name in GATES if GATES[name].searching and not GATES[name].sets_width]


def open_input(kind: str = "dynamic-token", gate: str = "softmax") -> OpenActivation:
    torch.manual_seed(0)
    made = OpenActivation(ActivationSpec(kind, 8, {}, CANDIDATES, gate)).eval()
    made.gate.initialise(None)
    made.calibrate(torch.randn(4, 6, 8))
    return made


def the_input(requires_grad: bool = False) -> torch.Tensor:
    values = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    return values.requires_grad_(requires_grad)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_mixture_of_the_candidates_with_its_gradients(kind):
    """Against what autograd makes of the sum, written out."""
    quantizer, x, other = open_input(kind), the_input(True), the_input(True)
    if kind == "probabilities":
        x, other = (values.detach().abs().requires_grad_() for values in (x, other))
    start = torch.tensor([[0.3, -0.2, 0.5]])
    quantizer.gate.start(start)
    logits = start.clone().requires_grad_()
    shares = torch.softmax(logits, 1)[0]
    expected = sum(share * one(other) for share, one in zip(shares, quantizer.quantizers))
    found = quantizer(x)
    torch.testing.assert_close(found, expected)
    weight = torch.arange(80.0).reshape(2, 5, 8)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x.grad, other.grad)
    torch.testing.assert_close(quantizer.gate.logits.grad, logits.grad)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gate", SEARCHING)
def test_a_path_is_what_is_decided_bit_for_bit(gate, kind):
    """And what was learned or observed for a candidate is what it keeps."""
    if GATES[gate].selects_planes:
        with pytest.raises(ValueError, match="selects bit planes of weights"):
            open_input(kind, gate)
        return
    if GATES[gate].sets_grid and kind != "learned-range":
        with pytest.raises(ValueError, match="needs a quantizer that learns its range"):
            open_input(kind, gate)
        return
    quantizer, x = open_input(kind, gate), the_input().abs()
    before = quantizer(x)
    for position, bits in enumerate(CANDIDATES):
        quantizer.gate.take(torch.tensor([position]))
        decided = quantizer.decided(bits)
        assert decided.bits == bits and not decided.spec.candidates
        assert torch.equal(quantizer(x), decided(x))
    quantizer.gate.take(None)
    assert torch.equal(quantizer(x), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sure_mixture_is_the_candidate_bit_for_bit(kind):
    quantizer, x = open_input(kind), the_input().abs()
    for position, one in enumerate(quantizer.quantizers):
        quantizer.gate.start(torch.where(torch.arange(3) == position, 0.0, -1e4).unsqueeze(0))
        assert quantizer.bits == CANDIDATES[position]
        assert torch.equal(quantizer(x), one(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays(dtype):
    quantizer, x = open_input(), the_input().to(dtype).requires_grad_()
    found = quantizer(x)
    found.sum().backward()
    assert found.dtype == x.grad.dtype == dtype and quantizer.gate.logits.grad.abs().sum() > 0


def test_ranges_are_observed_and_calibrated_for_every_candidate():
    config = MPQConfig(bits=8, activation_bits=CANDIDATES, activation="static")
    model = hf_mpq.quantize(tiny_model("bert"), config)
    one = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=8, activation_bits=8, activation="static"))
    for twin in (model, one):  # float inputs, so that all see the same
        for _, layer in matrices(twin, MPQLinear):
            layer.program.rounding = layer.input_quantizer.rounding = False
    hooked = {name: layer for name, layer in matrices(model, MPQLinear) if layer.input_gate is not None}
    assert hooked
    for twin in (model, one):
        calibrate_activations(twin, [tiny_batch()])
    plain = dict(matrices(one))
    for name, layer in hooked.items():
        for candidate in layer.input_quantizer.quantizers:
            torch.testing.assert_close(candidate.range, plain[name].input_quantizer.range)


def certain(bits: tuple[int, ...], candidates: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor([[0.0 if one == chosen else -1e4 for one in candidates] for chosen in bits])


@pytest.mark.parametrize("bits", [(0, 0, 0), (2, 4, 0), (3, 2, 2), (8, 2, 0)])
def test_an_input_follows_the_highest_precision_of_its_matrix(bits):
    """By what is certain, by a path, and decided; nothing of it is learned or saved."""
    candidates = (0, 2, 3, 4, 8)
    config = MPQConfig(bits=candidates, groups=3, activation_bits="weights")
    model = hf_mpq.quantize(tiny_model("bert"), config)
    name, layer = next((n, one) for n, one in matrices(model) if one.input_gate is not None)
    assert not [key for key in layer.input_quantizer.state_dict() if "gate" in key]
    most, gate = max(2, *bits), layer.program.gate
    gate.start(certain(bits, candidates))
    usage = usages(model)[name]
    assert layer.input_quantizer.bits == most and derive(model).activation_bits[name] == most
    torch.testing.assert_close(usage.activation_bits, torch.tensor(float(most)))
    gate.start(torch.zeros(3, 5))
    gate.take(torch.tensor([candidates.index(one) for one in bits]))
    chosen = int(layer.input_gate().index)
    assert layer.input_gate.candidates[chosen] == most


def test_the_chance_of_the_highest_is_that_of_counting():
    """Of two sub-groups, by all nine pairs."""
    torch.manual_seed(3)
    program = nn.Module()
    program.gate = GATES["softmax"](2, (0, 2, 4))
    program.gate.start(torch.randn(2, 3))
    gate = FollowingGate((2, 4))
    gate.follow(program)
    one, other = program.gate.usage().probabilities
    counted = [
        sum(one[i] * other[j] for i in range(3) for j in range(3) if max(2, (0, 2, 4)[i], (0, 2, 4)[j]) == bits)
        for bits in (2, 4)
    ]
    torch.testing.assert_close(gate.usage().probabilities[0], torch.stack(counted))


def test_a_copy_follows_the_copy():
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(2, 4), groups=2, activation_bits="weights"))
    twin = copy.deepcopy(model)
    for name, gate in gates(twin).items():
        if name.endswith(".input"):
            owner = dict(matrices(twin))[name.removesuffix(".input")]
            assert gate.leader is owner.program.gate


CONFIGS = {
    "a word": ({"activation_bits": "four"}, "activation_bits must be 2 to 8, or None for float; got 'four'; several"),
    "too few": ({"activation_bits": (1, 4)}, r"got \(1, 4\)"),
    "of a rule": ({"rules": {"query": {"activation_bits": (9,)}}}, r"got \(9,\)"),
    "none": ({"activation_bits": ()}, r"got \(\)"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_what_cannot_be_read_is_refused(case):
    fields, text = CONFIGS[case]
    with pytest.raises(ValueError, match=text):
        MPQConfig(**fields)


def test_what_is_one_number_in_the_end_is_not_open():
    """One candidate, weights that are decided or nested, and projections, which have the highest candidate."""
    for bits, fields in ((4, {"activation_bits": (4,)}), (3, {"bits": 3, "activation_bits": "weights"})):
        model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(**{"bits": (2, 4), **fields}))
        assert all(layer.input_gate is None for _, layer in matrices(model))
        assert derive(model).activation_bits["encoder.layer.0.output.dense"] == bits
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(2, 4), nested=True, activation_bits="weights"))
    assert derive(hf_mpq.set_precision(model, 2)).activation_bits["encoder.layer.0.output.dense"] == 4
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4, activation_bits=(6, 3)))
    assert derive(model).activation_bits["pooler.dense"] == 6
    assert model.hf_quantizer.space.weights["encoder.layer.0.output.dense"].activation.candidates == (3, 6)


@pytest.mark.parametrize("kind", ["dynamic-token", "static", "learned"])
@pytest.mark.parametrize("bits", [CANDIDATES, "weights"])
def test_what_is_open_is_saved_open(bits, kind, tmp_path):
    """The same function, with the same gates, that is decided alike."""
    config = MPQConfig(bits=(2, 4, 8), groups=2, activation_bits=bits, activation=kind)
    model = hf_mpq.quantize(tiny_model("bert"), config)
    calibrate_activations(model, [tiny_batch()])
    for gate in gates(model).values():
        for logits in gate.parameters():
            torch.nn.init.normal_(logits)
    model.save_pretrained(tmp_path)
    again = reload(tmp_path)
    assert sum(layer.input_gate is not None for _, layer in matrices(again)) == 12
    close(outputs(model), outputs(again), 0)
    expected = hf_mpq.assignment_of(model)
    for one in (model, again):
        assert hf_mpq.assignment_of(hf_mpq.fix(one)) == expected and not is_open(one)
    close(outputs(model), outputs(again), 0)
