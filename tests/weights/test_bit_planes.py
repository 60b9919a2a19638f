"""Weights as sums of bit planes, and the gate that selects planes of them (CSQ)."""

import copy

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import SubgroupLayout
from hf_mpq.nn.walk import matrices
from hf_mpq.plugin.float_copy import float_copy
from hf_mpq.weights import ENCODINGS, GATES, SOURCES, Choice
from tests.tiny import outputs, tiny_model
from tests.weights.cases import LAYOUTS, going_with, program_of, weight_of

BITS = (0, 2, 3, 4, 5, 6, 7, 8)
GOING = {name: value for name, value in going_with("planes").items() if name != "quantizer"}
UNEVEN = ["uneven rows", "columns", "fused shards"]
SHARP = 1e-6


def planes_of(layout=LAYOUTS["uneven rows"], candidates=BITS, weight=None, **fields):
    """A program whose gate selects planes, with its weight."""
    weight = weight_of(layout) if weight is None else weight
    fields = {"gate": "planes", **GOING, **fields}
    return program_of("symmetric", layout, weight, candidates=candidates, **fields), weight


def set_temperature(program, temperature):
    program.gate.set_temperature(temperature)
    program.source.set_temperature(temperature)


@torch.no_grad()
def learned(program, seed=0):
    """Some planes and gates have moved, across zero too."""
    torch.manual_seed(seed)
    program.source.planes.add_(torch.randn_like(program.source.planes))
    program.gate.logits.copy_(torch.randn_like(program.gate.logits))
    return program


def test_every_gradient_of_the_program_is_exact():
    """No straight-through estimator passes this; the program with another gate does not."""
    layout = SubgroupLayout((3, 4), 2)
    program, weight = planes_of(layout, candidates=(0, 2, 3, 4))
    learned(program).double()
    set_temperature(program, 0.4)
    parameters = (program.source.planes, program.gate.logits)

    def used(planes, logits):
        found = torch.func.functional_call(
            program, {"source.planes": planes, "gate.logits": logits}, (weight.double(),)
        )
        return found, torch.func.functional_call(program.gate, {"logits": logits}, ()).planes

    assert torch.autograd.gradcheck(used, parameters)
    other = program_of("symmetric", layout, weight, candidates=(0, 2, 3, 4), gate="softmax").double()
    with pytest.raises(torch.autograd.gradcheck.__globals__["GradcheckError"]):
        torch.autograd.gradcheck(other, (weight.double().requires_grad_(),))


@pytest.mark.parametrize("layout", UNEVEN)
def test_sharp_planes_are_their_codes_bit_for_bit(layout):
    """In the limit the weight is what the packed codes stand for, at every selection of planes, gaps included."""
    program, weight = planes_of(LAYOUTS[layout])
    for seed in range(4):
        set_temperature(learned(program, seed), SHARP)
        value, bits = program(weight).detach(), program.gate.derive()
        index = torch.tensor([BITS.index(one) for one in bits.tolist()])
        master = program.select_planes(weight, index)
        assert torch.equal(master, value) and not torch.equal(value, weight)
        for precision in sorted(set(bits.tolist()) - {0}):
            codes, floats = program.quantizer.encode(master, precision)
            read = ENCODINGS["scaled"].decode(codes, program.layout.expand(floats), precision)
            mine = program.layout.expand(bits) == precision
            assert torch.equal(read[mine], program.layout.lines(value)[mine])
        assert not program.layout.lines(value)[program.layout.expand(bits) == 0].any()


@pytest.mark.parametrize("selected", [1.0, -1.0])
@pytest.mark.parametrize("layout", UNEVEN)
def test_sharper_sigmoids_alone_move_no_weight(layout, selected, monkeypatch):
    """From beta 1 to 200 nothing moves by a level; without what they are divided by, everything grows."""
    program, weight = planes_of(LAYOUTS[layout])
    level = program.source._broadcast(program.source.scale)
    if selected < 0:
        with torch.no_grad():
            program.gate.logits[:, 0] = -4.0  # closed from the start

    def moved():
        found = []
        for beta in (1, 2, 5, 50, 200):
            set_temperature(program, 1 / beta)
            found.append(program(weight).detach())
        return max(float(((one - found[-1]).abs() / level).max()) for one in found)

    assert moved() < (1e-3 if selected > 0 else 0.03)
    monkeypatch.setattr(type(program.source), "values", lambda self: torch.sigmoid(self.planes / self.temperature))
    assert moved() > 10
    monkeypatch.undo()
    shares = lambda gate: Choice(planes=gate._shares())  # noqa: E731
    monkeypatch.setattr(type(program.gate), "choose", shares)
    assert moved() > 10


@pytest.mark.parametrize("layout", UNEVEN)
def test_the_start_is_the_float_weight_for_everything_but_the_gate(layout):
    program, weight = planes_of(LAYOUTS[layout])
    assert torch.equal(program.float_weight(weight * 0), weight)
    steps = program.source._broadcast(program.source.scale)
    assert ((program(weight) - weight).abs() <= steps * 0.501).all()
    program.rounding = False
    assert torch.equal(program(weight), weight)
    plain = program_of("symmetric", LAYOUTS[layout], weight, candidates=(2, 4), gate="softmax")
    under = program_of("symmetric", LAYOUTS[layout], weight, candidates=(2, 4), gate="softmax", source="planes")
    assert torch.equal(plain(weight), under(weight)), "another gate sees a float weight"


@pytest.mark.parametrize("weight", [torch.zeros(11, 10), torch.full((11, 10), -3.0), torch.full((11, 10), 1e-9)])
def test_degenerate_weights(weight):
    program, _ = planes_of(weight=weight)
    assert torch.equal(program.float_weight(weight), weight) and program(weight).isfinite().all()
    assert program.select_planes(weight, torch.full((4,), len(BITS) - 1)).isfinite().all()


def test_bits_are_the_span_of_the_open_planes_and_the_sign():
    gate = GATES["planes"](6, BITS)
    rows = ["0000000", "0000001", "1000000", "1000001", "0110000", "0101000"]  # lowest first
    with torch.no_grad():
        gate.logits.copy_(torch.tensor([[2.0 * int(bit) - 1 for bit in row] for row in rows]))
    assert gate.derive().tolist() == [0, 2, 2, 8, 3, 4]
    gate.set_temperature(SHARP)
    assert gate.usage().bits.tolist() == [0, 2, 2, 3, 3, 3] and gate.usage().keep.tolist() == [0, 1, 1, 1, 1, 1]
    assert not gate.uncertainty().any()
    gate.take(torch.full((6,), BITS.index(3)))
    window = gate().window
    assert window.count.tolist() == [2] * 6 and window.lowest.tolist()[1:5] == [5, 0, 0, 1]


def test_what_is_closed_for_a_budget_is_what_is_wanted_least():
    """The rest is rounded to the nearest code that fits."""
    program, weight = planes_of(candidates=(0, 2, 3, 4))
    with torch.no_grad():
        program.gate.logits.copy_(torch.tensor([[0.1, 2.0, 3.0], [3.0, 2.0, 0.1], [0.1, 2.0, 3.0], [1.0, 1.0, 1.0]]))
    reluctance = program.gate.reluctance()
    assert reluctance[:, 3].tolist() == [0.0] * 4
    torch.testing.assert_close(reluctance[:2, :3], torch.tensor([[5.1, 2.1, 0.1], [5.1, 2.1, 0.1]]).double())
    value = program.select_planes(weight, torch.tensor([2, 2, 1, 0]))
    codes = (value / program.source._broadcast(program.source.scale)).abs().round()
    exact = (weight.abs() / program.source._broadcast(program.source.scale)).round()
    first, second, third, last = program.layout.split(codes)
    one, two, three, _ = program.layout.split(exact)
    assert torch.equal(first, torch.clamp(torch.round(one / 2), max=3) * 2)
    assert torch.equal(second, two.clamp(max=3)) and torch.equal(third, torch.round(three / 4).clamp(max=1) * 4)
    assert not last.any() and program.gate.path is None


def test_one_plane_stays_where_nothing_may_be_pruned():
    gate = GATES["planes"](3, (2, 4))
    with torch.no_grad():
        gate.logits.copy_(torch.tensor([[-3.0, -1.0, -2.0], [-1.0, 0.5, -2.0], [1.0, 1.0, 1.0]]))
    gate.update()
    assert (gate.logits > 0).sum(1).tolist() == [1, 1, 3] and float(gate.logits[0, 1].detach()) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"source": "float-master"}, "choose source='planes'"),
        ({"quantizer_options": {}}, "choose quantizer={'name': 'symmetric', 'two_bits': 'ternary'}"),
        ({"candidates": (1, 4)}, "leave 1 out of the bits"),
        ({"transforms": {"unit-rows": {}}}, "leave out unit-rows"),
    ],
)
def test_what_cannot_go_with_a_selection_of_planes_says_why(fields, words):
    with pytest.raises(ValueError, match=words):
        planes_of(**fields)


def quantized(**config):
    fields = {"bits": (0, 2, 3, 4), "gate": "planes", "groups": 4, "activation_bits": None, **going_with("planes")}
    return hf_mpq.quantize(tiny_model("bert", num_hidden_layers=1), MPQConfig(**{**fields, **config}))


def test_planes_become_a_float_weight_when_they_are_decided(tmp_path):
    model = quantized()
    plain = tiny_model("bert", num_hidden_layers=1)
    assert torch.equal(outputs(float_copy(model))[0], outputs(plain)[0]), "the teacher is unrounded"
    selecting = {name: layer for name, layer in matrices(model) if layer.selects_planes}
    assert selecting and not any(layer.weight.requires_grad for layer in selecting.values())
    for layer in selecting.values():
        set_temperature(learned(layer.program), SHARP)
    model.save_pretrained(tmp_path / "open")
    again = type(model).from_pretrained(tmp_path / "open")
    before = outputs(model)[0]
    assert torch.equal(outputs(again)[0], before)
    hf_mpq.fix(again)
    assert hf_mpq.assignment_of(again) == hf_mpq.assignment_of(model)
    assert not any("planes" in name for name in again.state_dict())
    assert all(layer.weight.requires_grad for name, layer in matrices(again) if name in selecting)
    again.save_pretrained(tmp_path / "fixed")
    fixed = type(model).from_pretrained(tmp_path / "fixed")
    assert torch.equal(outputs(fixed)[0], outputs(again)[0])
    kinds = {type(layer.program.source) for _, layer in matrices(fixed)}
    assert kinds == {SOURCES["float-master"]}
    unpruned = quantized(bits=(2, 3, 4))
    for layer in dict(matrices(unpruned)).values():
        if layer.selects_planes:
            set_temperature(learned(layer.program), SHARP)
            layer.program.gate.update()
    before = outputs(unpruned)[0]
    torch.testing.assert_close(outputs(hf_mpq.fix(unpruned))[0], before, atol=1e-6, rtol=0)


def test_a_fix_that_is_refused_leaves_the_planes():
    model = quantized(bits=(0, 4), groups="channel")
    state = copy.deepcopy(model.state_dict())
    given = hf_mpq.assignment_of(model).to_dict()
    for one in given["matrices"].values():
        one["bits"] = (5,) * len(one["bits"])
    with pytest.raises(ValueError, match="not among the candidates"):
        hf_mpq.fix(model, hf_mpq.Assignment.from_dict(given))
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert any(layer.selects_planes for _, layer in matrices(model))
