"""Learned ranges: FDQ's quantizer and the gate that sets its grid, by the paper's formulas."""

import math

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import SubgroupLayout, WeightSpec
from hf_mpq.weights import GATES, QUANTIZERS, Choice, WeightProgram
from tests.tiny import tiny_model
from tests.weights.cases import LAYOUTS, decoded, weight_of

GATE = "learned-range"
CANDIDATES = tuple(range(2, 9))
STEP, RANGE = 0.25, 0.8  # k = round(3.2) = 3
WEIGHT = [-2.0, -0.81, -0.79, -0.6, -0.1, 0.0, 0.13, 0.4, 0.76, 0.79, 0.85, 3.0]


def program_of(weight, layout=None, candidates=CANDIDATES, step=None, largest=None, **fields):
    """A calibrated program under the gate that sets the grid."""
    layout = layout or SubgroupLayout(weight.shape)
    program = WeightProgram(WeightSpec(layout, candidates, quantizer="learned-range", gate=GATE, **fields))
    program.initialise(weight)
    program.calibrate(weight)
    with torch.no_grad():
        if step is not None:
            program.gate.step.fill_(step), program.quantizer.range.fill_(largest)
    return program


def papers(weight, step, largest):
    """`Q(w) = d round(clip(w, -x_max, x_max) / d)`."""
    return step * torch.round(weight.clamp(-largest, largest) / step)


def test_the_value_is_the_papers():
    weight = torch.tensor([WEIGHT])
    for step, largest in ((STEP, RANGE), (0.25, 0.9), (0.5, 0.5), (0.125, 1.0), (0.5, 0.15)):
        program = program_of(weight, candidates=(0, *CANDIDATES), step=step, largest=largest)
        assert torch.equal(program(weight), papers(weight, step, largest)), (step, largest)


@pytest.mark.parametrize("position", range(len(WEIGHT)))
def test_gradients_are_finite_differences_of_the_pieces(position):
    """With what is rounded held still, inside `Q = w + d (round(r) - r)`, and outside `Q = sign(w) x_max`."""
    value = WEIGHT[position]
    weight = torch.tensor([WEIGHT], requires_grad=True)
    program = program_of(weight.detach(), step=STEP, largest=RANGE)
    program(weight)[0, position].backward()
    ratio = value / STEP
    rest = round(ratio) - ratio

    def piece(w, step, largest):
        return w + step * rest if abs(value) <= RANGE else math.copysign(largest, value)

    h, at = 1e-4, (value, STEP, RANGE)
    moved = lambda place, by: [one + by * (place == k) for k, one in enumerate(at)]  # noqa: E731
    expected = [(piece(*moved(place, h)) - piece(*moved(place, -h))) / (2 * h) for place in range(3)]
    found = [weight.grad[0, position], program.gate.step.grad, program.quantizer.range.grad]
    assert [float(one) for one in found] == pytest.approx(expected, abs=1e-5)
    by_hand = [1, rest, 0] if abs(value) <= RANGE else [0, 0, math.copysign(1, value)]
    assert expected == pytest.approx(by_hand, abs=1e-7)


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 7, 8, 15, 16, 31, 63, 100, 127])
def test_bits_follow_from_step_and_range(levels):
    gate = GATES[GATE](3, CANDIDATES)
    with torch.no_grad():
        gate.step.fill_(1 / levels)
    bits = math.ceil(math.log2(levels + 1)) + 1
    assert gate.derive().tolist() == [bits] * 3 and gate.usage().bits.tolist() == [bits] * 3
    assert gate().levels[1].tolist() == [levels] * 3
    some = GATES[GATE](3, (2, 4, 8))
    some.load_state_dict(gate.state_dict())
    assert some.derive()[0] == min(one for one in (2, 4, 8) if one >= bits)


def test_bits_have_the_gradient_of_their_logarithm():
    """Rounding and ceiling are straight-through: `d bits / d step = -k / (d (k + 1) ln 2)`, with k before rounding."""
    gate = GATES[GATE](1, CANDIDATES)
    with torch.no_grad():
        gate.step.fill_(1 / 5.2)
    gate.usage().bits.backward()
    assert gate.step.grad.item() == pytest.approx(-(5.2**2) / (6 * math.log(2)), rel=1e-5)
    gate.zero_grad()
    usage = gate.usage()
    usage.probabilities.mul(torch.arange(7.0)).sum().backward()
    assert gate.step.grad.item() == pytest.approx(-(5.2**2) / (6 * math.log(2)), rel=1e-5)
    assert usage.probabilities.tolist() == [[0, 0, 1, 0, 0, 0, 0]] and usage.keep.tolist() == [1]


def test_the_step_stays_between_those_of_the_candidates():
    gate = GATES[GATE](4, (3, 6))
    with torch.no_grad():
        gate.step.copy_(torch.tensor([2.0, 0.2, 1e-3, 1 / 3]))
    gate.update()
    assert gate.step.tolist() == pytest.approx([1 / 3, 0.2, 1 / 31, 1 / 3])
    before = gate.step.detach().clone()
    gate.update()
    assert torch.equal(gate.step, before) and gate.derive().tolist() == [3, 6, 6, 3]


def test_it_starts_from_the_highest_candidate_up_to_its_bits():
    weight = weight_of(LAYOUTS["even rows"])
    for candidates, bits in ((CANDIDATES, 6), ((2, 4, 8), 4), ((7, 8), 7), ((0, 2), 2)):
        program = program_of(weight, LAYOUTS["even rows"], candidates)
        assert program.gate.derive().tolist() == [bits] * 4
    assert program_of(weight, LAYOUTS["even rows"], gate_options={"start_bits": 4}).gate.derive().tolist() == [4] * 4
    program.calibrate(3 * weight)
    assert program.gate.derive().tolist() == [2] * 4


@pytest.mark.parametrize("live", [None, "half"])
def test_the_papers_start_is_three_deviations(live):
    layout, weight = LAYOUTS["uneven rows"], weight_of(LAYOUTS["uneven rows"])
    keep = None if live is None else torch.arange(10).expand(11, -1) % 2 == 0
    quantizer = QUANTIZERS["learned-range"](layout, CANDIDATES)
    quantizer.calibrate(weight if keep is None else weight * keep, keep)
    for group, part in enumerate(layout.split(weight)):
        part = part if keep is None else part[:, ::2]
        mean, deviation = part.mean(), part.std(correction=0)
        ends = (mean - 3 * deviation).abs(), (mean + 3 * deviation).abs()
        assert quantizer.range[group].item() == pytest.approx(max(ends).item(), rel=1e-5)
    scanned, alone = (QUANTIZERS["learned-range"](layout, bits, start="scan") for bits in ((2, 4, 8), (4,)))
    scanned.calibrate(weight), alone.calibrate(weight)
    assert torch.equal(scanned.range, alone.range)
    scan, paper = ((one.candidate(weight, 4) - weight).square().sum() for one in (alone, quantizer))
    assert scan < paper
    with pytest.raises(ValueError, match="start must be 'paper' or 'scan', got 'widest'"):
        QUANTIZERS["learned-range"](layout, CANDIDATES, start="widest")


@pytest.mark.parametrize("bits", CANDIDATES)
def test_decided_every_level_is_used_and_packed_is_trained(bits):
    """The step is then `x_max / (2^(b-1) - 1)`, whatever it was while it was learned."""
    layout, weight = LAYOUTS["even rows"], weight_of(LAYOUTS["even rows"])
    program = program_of(weight, layout)
    path = torch.full((layout.count,), CANDIDATES.index(bits))
    program.gate.take(path)
    trained, (packed, codes, floats) = program(weight), decoded(program.quantizer, weight, bits)
    assert torch.equal(trained, packed) and program.quantizer.encoding == "scaled"
    highest = 2 ** (bits - 1) - 1
    expected = (program.quantizer.range / highest).half().float()
    assert torch.equal(floats.squeeze(1), expected)
    assert (codes.int() - 2 ** (bits - 1)).abs().max() <= highest
    program.quantizer.restore(bits, torch.arange(4), 2 * floats)
    assert torch.equal(program.quantizer.encode(weight, bits)[1], 2 * floats)


def test_what_the_gate_wants_is_near_in_bits():
    gate = GATES[GATE](2, (0, 2, 4, 8))
    with torch.no_grad():
        gate.step.copy_(torch.tensor([1 / 1.6, 1 / 100.0]))  # 2.38 bits and 7.66
    wanted = gate.reluctance()
    assert gate.derive().tolist() == [4, 8] and wanted.argmin(1).tolist() == [2, 3]
    exact = [math.log2(2.6) + 1, math.log2(101) + 1]
    assert wanted[0, 1:].tolist() == pytest.approx([(exact[0] - 2) ** 2, 0, (8 - exact[0]) ** 2], rel=1e-5)
    assert wanted[1, 1:].tolist() == pytest.approx([(exact[1] - 2) ** 2, (exact[1] - 4) ** 2, 0], rel=1e-5)
    assert (wanted[:, 0] > 60).all()


def test_the_gate_says_which_quantizer_it_needs():
    layout = SubgroupLayout((4, 4))
    with pytest.raises(ValueError, match="LearnedStepQuantizer does not: choose 'learned-range' for both"):
        GATES[GATE](1, CANDIDATES).decide_for(QUANTIZERS["lsq"](layout, CANDIDATES))
    with pytest.raises(ValueError, match="at least 2 bits"):
        GATES[GATE](1, (0, 1))


def test_some_rows_of_a_grid_that_the_gate_sets():
    layout = LAYOUTS["uneven rows"]
    weight, rows = weight_of(layout), torch.tensor([5, 0, 3])
    program = program_of(weight, layout)
    assert torch.equal(program.rows(weight, rows), program(weight)[rows])
    weight.requires_grad_()
    program.rows(weight, rows).square().sum().backward()
    assert program.quantizer.range.grad.ne(0).any() and program.gate.step.grad.ne(0).any()


def test_under_other_gates_the_range_is_shared_by_all_precisions():
    layout, weight = LAYOUTS["even rows"], weight_of(LAYOUTS["even rows"])
    quantizer = QUANTIZERS["learned-range"](layout, (2, 4))
    quantizer.calibrate(weight)
    index = torch.tensor([0, 1, 1, 0])
    quantizer(weight, Choice(index=index)).sum().backward()
    for group, part in enumerate(layout.split(weight)):
        largest = quantizer.range[group].detach()
        levels = 2 ** (2 * index[group] + 1) - 1
        step = (largest / levels).half().float()
        ratio = part / step
        inside = ratio.abs() <= levels
        expected = torch.where(inside, (ratio.round() - ratio) / levels, part.sign()).sum()
        assert quantizer.range.grad[group].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    "fields", [{}, {"quantizer": "learned-range", "activation_bits": (4, 8)}], ids=["weights", "inputs"]
)
def test_a_config_whose_gate_needs_another_quantizer_is_refused_before_anything_is_made(fields):
    model = tiny_model("bert", num_hidden_layers=1)
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(ValueError, match="choose 'learned-range' for both, and as the activation where"):
        hf_mpq.quantize(model, MPQConfig(bits=(2, 4), gate="learned-range", **fields))
    assert {name: type(module) for name, module in model.named_modules()} == before
