"""What open inputs cost: by the pair of weight bits and input bits where a cost counts both."""

from dataclasses import replace
from random import Random

import pytest
import torch
from torch.nn.functional import one_hot as flags

from hf_mpq.core import ActivationSpec, Assignment
from hf_mpq.cost import COSTS, ActivationBytes, BitOperations, Energy

CANDIDATES = (2, 4, 8)
PAIRED = {"bops": lambda space: BitOperations(space, 8), "energy": lambda space: Energy(space, 8)}
COUNTING = {**PAIRED, "activations": lambda space: ActivationBytes(space, 8)}


def opened(space, follows=False):
    spec = ActivationSpec(bits=8, candidates=CANDIDATES, follows=follows)
    return replace(space, weights={name: replace(one, activation=spec) for name, one in space.weights.items()})


def with_inputs(assignment, seed):
    draw = Random(seed)
    return Assignment(assignment.matrices, {name: draw.choice(CANDIDATES) for name in assignment.matrices})


def with_chances(usages, inputs):
    """Usages that are sure of the inputs' bits."""
    found = {}
    for name, usage in usages.items():
        chances = flags(torch.tensor(CANDIDATES.index(inputs[name])), 3).to(usage.bits.dtype)
        bits = chances @ torch.tensor(CANDIDATES, dtype=chances.dtype)
        found[name] = replace(usage, activation_bits=bits, activation_probabilities=chances)
    return found


@pytest.mark.parametrize("kind", COUNTING)
@pytest.mark.parametrize("seed", range(3))
def test_expectation_meets_the_exact_cost(make_space, random, one_hot, kind, seed):
    space = opened(make_space(activation_bits=8))
    cost, given = COUNTING[kind](space), with_inputs(random(space, seed), seed)
    expected = cost.expected(with_chances(one_hot(space, given), given.activation_bits))
    assert float(expected) == pytest.approx(cost.of(given), rel=1e-6)


@pytest.mark.parametrize("kind", COUNTING)
def test_a_mixture_is_the_mean_over_pairs(make_space, random, one_hot, kind):
    """Of one matrix whose input is 2, 4 or 8 bits: the exact costs, weighted."""
    space = opened(make_space(layers=1, activation_bits=8, links=False))
    cost, given = COUNTING[kind](space), with_inputs(random(space, 0), 0)
    name, chances = next(iter(space.weights)), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    usages = with_chances(one_hot(space, given), given.activation_bits)
    bits = chances @ torch.tensor(CANDIDATES, dtype=torch.float64)
    usages[name] = replace(usages[name], activation_bits=bits, activation_probabilities=chances)
    each = [cost.of(replace(given, activation_bits={**given.activation_bits, name: one})) for one in CANDIDATES]
    assert float(cost.expected(usages)) == pytest.approx(float(chances @ torch.tensor(each).double()), rel=1e-6)


@pytest.mark.parametrize("kind", PAIRED)
def test_tables_add_up_at_every_pair(make_space, uniform, kind):
    space = opened(make_space(layers=1, activation_bits=8, links=False, candidates=(0, 2, 4)))
    cost = COUNTING[kind](space)
    attention = cost.of(replace(uniform(space, 0), activation_bits={}))
    for column, bits in enumerate((0, 2, 4)):
        for given in CANDIDATES:
            assignment = replace(uniform(space, bits), activation_bits=dict.fromkeys(space.weights, given))
            total = sum(float(cost.table(name, input_bits=given)[:, column].sum()) for name in space.weights)
            assert cost.of(assignment) - attention == pytest.approx(total)


@pytest.mark.parametrize("kind", [name for name in COSTS if name != "latency"])
def test_what_an_input_adds_is_the_difference_of_exact_costs(make_space, random, kind):
    space = opened(make_space(activation_bits=8, links=False))
    cost, given = COSTS[kind](space), with_inputs(random(space, 2), 2)
    name = list(space.weights)[3]
    exact = [cost.of(replace(given, activation_bits={**given.activation_bits, name: bits})) for bits in CANDIDATES]
    found = cost.input_table(name, torch.tensor(given.matrices[name].bits))
    torch.testing.assert_close(found, torch.tensor(exact, dtype=torch.float64) - exact[0], rtol=1e-9, atol=1e-6)
    assert bool(found.any()) == (kind in COUNTING)
