"""Programs that are run as one give what each gives alone, bit for bit, and so do their gradients."""

import copy
from contextlib import nullcontext

import pytest
import torch

from hf_mpq.core import SubgroupLayout, WeightSpec
from hf_mpq.weights import GATES, QUANTIZERS, WeightProgram
from hf_mpq.weights.gates import SoftmaxGate
from hf_mpq.weights.joined import joinable, joinable_gate, joined_once, joined_weights, usages_of

DECLARED = [name for name in QUANTIZERS if "by_group" in vars(QUANTIZERS[name])]
CHOOSING = [name for name in GATES if "by_group" in vars(GATES[name])]


def programs(quantizer="lsq", gate="softmax", **fields):
    """Two of other shapes and cuts, but rows as long; each with its own start."""
    made = []
    for number, (rows, groups) in enumerate(((24, 4), (14, 3), (24, 24))):
        layout = SubgroupLayout((rows, 16), groups)
        bits = tuple((2, 4, 8)[n % 3] for n in range(layout.count)) if gate == "fixed" else None
        spec = WeightSpec(layout, (0, 2, 4, 8), bits, quantizer=quantizer, gate=gate, **fields)
        program, generator = WeightProgram(spec), torch.Generator().manual_seed(number)
        weight = torch.randn(rows, 16, generator=generator).requires_grad_()
        program.initialise(weight)
        program.calibrate(weight)
        if gate != "fixed":
            program.gate.start(torch.randn(layout.count, 4, generator=generator))
            program.gate.set_temperature(0.5 + number)
            program.gate.redraw(generator)
        made.append((program, weight))
    return [program for program, _ in made], [weight for _, weight in made]


def gradients(found, programs, weights):
    """Of a loss that every number counts in, of every weight and parameter."""
    loss = sum((value * torch.linspace(-1, 2, value.numel()).view_as(value)).sum() for value in found)
    learned = [*weights, *(one for program in programs for one in program.parameters())]
    return torch.autograd.grad(loss, learned, allow_unused=True)


@pytest.mark.parametrize("gate", CHOOSING)
@pytest.mark.parametrize("quantizer", DECLARED)
def test_values_and_gradients_are_those_of_each_alone(quantizer, gate):
    several, weights = programs(quantizer, gate)
    assert len({joinable(program) for program in several}) == 1 and joinable(several[0]) is not None
    alone, together = [program(weight) for program, weight in zip(several, weights)], joined_weights(several, weights)
    assert all(map(torch.equal, alone, together))
    for one, other in zip(gradients(alone, several, weights), gradients(together, several, weights)):
        assert (one is None) == (other is None) and (one is None or torch.equal(one, other))


def test_what_no_loss_depends_on_has_no_gradient():
    several, weights = programs()
    found = joined_weights(several, weights)
    given = gradients([found[0], found[2]], several, weights)
    steps, logits = several[1].quantizer.step, several[1].gate.logits
    learned = [*weights, *(one for program in several for one in program.parameters())]
    without = [one for one, gradient in zip(learned, given) if gradient is None]
    assert {id(one) for one in without} == {id(weights[1]), id(steps), id(logits)}


@pytest.mark.parametrize("read", [(0, 1, 2), (0, 2)], ids=["all weights", "some weights"])
@pytest.mark.parametrize("priced", [(0, 1, 2, 3), (2, 3)], ids=["all usages", "some usages"])
@pytest.mark.parametrize("gate", CHOOSING)
def test_usages_share_what_weights_have_joined(gate, read, priced):
    """Gradients are as without, and the gradient of a gate that neither reads is none."""
    several, weights = programs(gate=gate)
    gates = [programs(gate=gate)[0][0].gate, *(program.gate for program in several[::-1])]  # one has no such weight
    learned = [*weights, *(one for owner in (*several, gates[0]) for one in owner.parameters())]
    found = []
    for scope in (nullcontext, joined_once):
        with scope():
            values, usages = joined_weights(several, weights), usages_of(gates)
        terms = [values[place] for place in read]
        terms += [term for place in priced for term in (usages[place].bits * 3, usages[place].keep)]
        loss = sum((term * torch.linspace(-1, 2, term.numel()).view_as(term)).sum() for term in terms)
        found.append(torch.autograd.grad(loss, learned, allow_unused=True))
    for one, other in zip(*found):
        assert (one is None) == (other is None) and (one is None or torch.equal(one, other))


def test_paths_and_masks_are_kept():
    several, weights = programs()
    for program in several:
        program.gate.take(torch.arange(program.layout.count) % 4)
        program.live_columns[3] = False
        program.refresh()
    assert joinable(several[0]) is None  # its scales look at what is live
    masked, weights = programs(mask="n:m", mask_options={"kept": 2, "block": 4})
    assert joinable(masked[0]) is None
    several, weights = programs()
    for program in several:
        program.gate.take(torch.arange(program.layout.count) % 4)
    alone = [program(weight) for program, weight in zip(several, weights)]
    assert all(map(torch.equal, alone, joined_weights(several, weights)))


@pytest.mark.parametrize("gate", CHOOSING)
def test_usages_are_those_of_each_gate(gate):
    gates = [program.gate for program in programs(gate=gate)[0]]
    for alone, together in zip([one.usage() for one in gates], usages_of(gates)):
        torch.testing.assert_close(alone.probabilities, together.probabilities, rtol=0, atol=0)
        torch.testing.assert_close(alone.bits, together.bits, rtol=1e-6, atol=0)
        torch.testing.assert_close(alone.keep, together.keep, rtol=0, atol=0)


def test_a_class_that_says_nothing_of_its_own_is_run_alone():
    class Warm(SoftmaxGate):
        def choose(self):
            return super().choose()

    gate = copy.copy(programs()[0][0].gate)
    assert joinable_gate(gate) is not None
    gate.__class__ = Warm
    assert joinable_gate(gate) is None
