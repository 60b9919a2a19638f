from dataclasses import replace

import pytest
import torch

from hf_mpq.core import ActivationSpec, Assignment, Budget, MatrixAssignment, PrecisionSpace, SubgroupLayout, WeightSpec
from hf_mpq.cost import COSTS, Energy, measure
from hf_mpq.search import allocate

CYCLE = 5.3825e-3 / 250e6 * 1e6
"""Microjoules."""
NAME = "encoder.layer.0.attention.self.{}"


def one_matrix(activation_bits=8, bits=(2, 4), **fields):
    spec = WeightSpec(
        SubgroupLayout((6, 10), 2),
        (0, 2, 3, 4, 8),
        activation=ActivationSpec(bits=activation_bits),
        floats=dict.fromkeys(range(1, 9), 1),
        **fields,
    )
    return PrecisionSpace({"only": spec}), Assignment({"only": MatrixAssignment(bits)})


def test_a_matrix_by_hand():
    """Half of 6 x 10 weights at 2 bits, half at 4, for five tokens with 8 bit activations."""
    space, assignment = one_matrix()
    cycles = 5 * (30 / 2.5 + 30 / 2.3)
    assert Energy(space, tokens=5).of(assignment) == pytest.approx(cycles * CYCLE)
    assert Energy(space).of(assignment) == pytest.approx(128 / 5 * cycles * CYCLE)


@pytest.mark.parametrize(
    "activation, bits, rate",
    [
        (2, 2, 6.5),
        (2, 4, 4.0),
        (2, 8, 2.2),
        (4, 2, 3.9),
        (4, 4, 3.5),
        (4, 8, 2.1),
        (8, 2, 2.5),
        (8, 4, 2.3),
        (8, 8, 2.1),
        (3, 3, 3.5),
        (5, 3, 2.3),
        (8, 3, 2.3),
    ],
)
def test_the_published_rates_and_the_next_higher_ones(activation, bits, rate):
    space, assignment = one_matrix(activation, (bits, bits))
    assert Energy(space, tokens=1).of(assignment) == pytest.approx(60 / rate * CYCLE)


def test_bits_of_an_assignment_win_over_those_of_the_spec():
    space, assignment = one_matrix(8, (2, 2))
    assert Energy(space, 1).of(replace(assignment, activation_bits={"only": 2})) == pytest.approx(60 / 6.5 * CYCLE)


def test_every_call_counts_and_other_roles_do_not():
    (once, assignment), (twelve, _) = one_matrix(), one_matrix(calls=12)
    assert Energy(twelve).of(assignment) == pytest.approx(12 * Energy(once).of(assignment))
    assert Energy(one_matrix(role="projection")[0]).of(assignment) == 0


def test_pruned_rows_and_the_columns_that_read_them_cost_nothing(make_space, uniform):
    space = make_space(layers=1, activation_bits=8, groups=2)
    full = uniform(space, 4)
    values = replace(full, matrices=full.matrices | {NAME.format("value"): MatrixAssignment((0, 4))})
    saved = Energy(space).of(full) - Energy(space).of(values)
    assert saved == pytest.approx(128 * (32 * 64 + 64 * 32) / 2.3 * CYCLE)


@pytest.mark.parametrize("with_probabilities", [True, False])
@pytest.mark.parametrize("activation_bits", [8, 3])
@pytest.mark.parametrize("seed", range(3))
def test_expectation_meets_the_exact_cost(make_space, random, one_hot, seed, activation_bits, with_probabilities):
    space = make_space(activation_bits=activation_bits)
    cost, assignment = Energy(space), random(space, seed)
    expected = cost.expected(one_hot(space, assignment, with_probabilities))
    assert float(expected) == pytest.approx(cost.of(assignment), rel=1e-9)


def test_the_expectation_is_differentiable(make_space, uniform, one_hot):
    space = make_space(layers=1, activation_bits=8)
    name = NAME.format("query")
    usages = one_hot(space, uniform(space, 4))
    logits = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)

    def energy(logits):
        shares = torch.softmax(logits, 1)
        bits = torch.tensor(space.weights[name].candidates, dtype=torch.float64)
        changed = replace(usages[name], bits=shares @ bits, keep=shares[:, 1:].sum(1), probabilities=shares)
        return Energy(space, tokens=1).expected({**usages, name: changed})

    assert torch.autograd.gradcheck(energy, logits)
    energy(logits).backward()
    assert logits.grad.abs().max() > 0


def test_expected_activation_bits_are_trained_too(make_space, uniform, one_hot):
    space = make_space(layers=1, activation_bits=8)
    bits = torch.tensor(4.5, dtype=torch.float64, requires_grad=True)
    usages = {key: replace(usage, activation_bits=bits) for key, usage in one_hot(space, uniform(space, 4)).items()}
    found = Energy(space, tokens=1).expected(usages)
    found.backward()
    weights = 4 * 64 * 64 + 2 * 64 * 128
    assert found.item() == pytest.approx(weights * (1 / 3.5 + 1 / 2.3) / 2 * CYCLE)
    assert float(bits.grad) == pytest.approx(weights * (1 / 2.3 - 1 / 3.5) * CYCLE)


def test_the_table_adds_up_to_the_exact_cost(make_space, uniform):
    space = make_space(layers=1, activation_bits=8, links=False, candidates=(0, 2, 4))
    cost = COSTS["energy"](space)
    for k, bits in enumerate((0, 2, 4)):
        total = sum(float(cost.table(name)[:, k].sum()) for name in space.weights)
        assert total == pytest.approx(cost.of(uniform(space, bits)))
    name = NAME.format("query")
    torch.testing.assert_close(cost.table(name, live_columns=16), cost.table(name) / 4)


def test_a_budget_in_microjoules_is_met(make_space, uniform):
    space = make_space(layers=1, activation_bits=8)
    cost = Energy(space)
    budget = 0.9 * cost.of(uniform(space, 8))
    assert measure(cost, Budget.parse(f"{budget:.3f}uJ")) == (cost, pytest.approx(budget, abs=1e-3))
    scores = {
        name: 4.0 ** -torch.tensor(spec.candidates).double().expand(8, -1) for name, spec in space.weights.items()
    }
    assert 0.8 * budget < cost.of(allocate(space, cost, f"{budget:.3f}uJ", scores)) <= budget


def test_float_activations_are_refused(make_space):
    with pytest.raises(ValueError, match=r"encoder\.layer\.0.*set activation_bits=8"):
        Energy(make_space())
