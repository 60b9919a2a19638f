"""Milliseconds from a table: what saves time, expectations, allocation."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from hf_mpq.core import Assignment, Budget, BudgetError, MatrixAssignment, ModelShape, budgets_of
from hf_mpq.cost import COSTS, Latency, LatencyTable, limits_of, measure
from hf_mpq.cost.latency_table import interpolate
from hf_mpq.search import ALLOCATORS

TABLE = LatencyTable(10.0, 8.0, ((1, 6.0), (64, 7.0), (128, 10.0)), ((1, 7.0), (4, 10.0)), 2)
"""Two layers of 128 rows and 4 heads: a layer's rows take up to 2 of its ms, its heads up to 1.5."""
AT = "encoder.layer.{}."
ATTENTION = [f"attention.self.{part}" for part in ("query", "key", "value")]


@pytest.fixture
def space(make_space):
    """Four sub-groups a matrix: those of query, key and value are heads."""
    return make_space(2, 256, 128, 4, candidates=(0, 4, 8))


def with_heads_tied(space):
    weights = {
        name: replace(spec, tie=name.rpartition(".")[0]) if name.endswith(("query", "key", "value")) else spec
        for name, spec in space.weights.items()
    }
    return replace(space, weights=weights)


def pruned(space, rows=0, heads=0, layers=(0, 1)):
    """8 bits, but for so many sub-groups of the feed-forward rows, and heads, of some layers."""
    bits = {name: [8] * spec.layout.count for name, spec in space.weights.items()}
    for layer in layers:
        for name in ATTENTION:
            bits[AT.format(layer) + name][:heads] = [0] * heads
        bits[AT.format(layer) + "intermediate.dense"][:rows] = [0] * rows
    return Assignment({name: MatrixAssignment(tuple(one)) for name, one in bits.items()})


def scores(space, seed=0):
    random = np.random.default_rng(seed)
    return {
        name: random.lognormal(0, 1, (spec.layout.count, 1)) * 2.0 ** -np.array(spec.candidates)
        for name, spec in space.weights.items()
    }


def test_measured_points_are_hit_and_what_lies_between_is_between(space):
    cost = Latency(space, table=TABLE)
    assert cost.of(pruned(space)) == 10
    assert cost.of(pruned(space, rows=2)) == pytest.approx(7)
    assert cost.of(pruned(space, rows=1)) == pytest.approx(8.5)
    assert cost.of(pruned(space, rows=2, layers=(1,))) == pytest.approx(8.5)
    assert cost.of(pruned(space, heads=1)) == pytest.approx(9)
    assert cost.of(pruned(space, rows=2, heads=2)) == pytest.approx(10 - 3 - 2)


def test_one_row_and_one_head_always_stay(space):
    assert Latency(space, table=TABLE).of(pruned(space, rows=4, heads=4)) == pytest.approx(10 - 4 - 3)


def test_more_pruning_is_never_slower(space, random):
    cost = Latency(space, table=TABLE)
    for seed in range(5):
        some, others = random(space, seed), random(space, seed + 50).matrices
        more = {
            name: MatrixAssignment(tuple(map(min, one.bits, others[name].bits))) for name, one in some.matrices.items()
        }
        assert cost.of(Assignment(more)) <= cost.of(some)


@pytest.mark.parametrize("name", [*ATTENTION, "attention.output.dense", "output.dense"])
def test_rows_that_cannot_go_save_nothing(space, name):
    matrices = dict(pruned(space).matrices)
    matrices[AT.format(0) + name] = MatrixAssignment((0, 0, 0, 8))
    assert Latency(space, table=TABLE).of(Assignment(matrices)) == 10


def test_bits_above_zero_make_no_difference(space, uniform):
    cost = Latency(space, table=TABLE)
    assert cost.of(uniform(space, 4)) == cost.of(uniform(space, 8)) == 10


def test_dropped_layers_take_their_time_with_them(space):
    matrices = {name: one for name, one in pruned(space, rows=2).matrices.items() if not name.startswith(AT.format(1))}
    assert Latency(space, table=TABLE).of(Assignment(matrices, shape=ModelShape(layers=(0,)))) == pytest.approx(
        10 - 4 - 1.5
    )


def test_a_shared_layer_counts_each_time(space):
    shared = replace(space, weights={name: replace(spec, calls=2) for name, spec in space.weights.items()})
    assert Latency(shared, table=replace(TABLE, layers=4)).of(pruned(space, rows=2)) == pytest.approx(7)


@pytest.mark.parametrize("shape", [{"hidden": 8}, {"heads": (1, 1)}, {"layers": (0,), "rows": (9,)}])
def test_other_widths_are_refused(space, shape):
    with pytest.raises(ValueError, match="of a model of that shape"):
        Latency(space, table=TABLE).of(replace(pruned(space), shape=ModelShape(**shape)))


def test_families_whose_heads_stay(space):
    cost = Latency(space, table=replace(TABLE, heads=((0, 10.0),)))
    assert cost.of(pruned(space, heads=3)) == 10
    assert float(cost.table(AT.format(0) + "attention.self.query").abs().max()) == 0


@pytest.mark.parametrize("with_probabilities", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_expectation_meets_the_exact_cost(space, random, one_hot, seed, with_probabilities):
    cost = Latency(space, table=TABLE)
    for assignment in (random(space, seed), pruned(space, seed, seed), pruned(space, 4, 4)):
        assert float(cost.expected(one_hot(space, assignment, with_probabilities))) == pytest.approx(
            cost.of(assignment), rel=1e-9
        )


def test_a_head_is_expected_to_go_when_all_of_its_rows_do(space, one_hot):
    usages = one_hot(space, pruned(space))
    for name in ATTENTION:
        usage = usages[AT.format(0) + name]
        usages[AT.format(0) + name] = replace(
            usage, keep=torch.tensor([0.5, 1, 1, 1], dtype=torch.float64), probabilities=None
        )
    assert float(Latency(space, table=TABLE).expected(usages)) == pytest.approx(10 - 0.125 * 0.5)


def test_every_gate_that_can_save_time_feels_it(space, one_hot):
    keeps = {name: torch.full((4,), 0.7, dtype=torch.float64, requires_grad=True) for name in space.weights}
    usages = {
        name: replace(usage, bits=8 * keeps[name], keep=keeps[name], probabilities=None)
        for name, usage in one_hot(space, pruned(space)).items()
    }
    Latency(space, table=TABLE).expected(usages).backward()
    for name, keep in keeps.items():
        saves = name.endswith(("intermediate.dense", *ATTENTION))
        assert (keep.grad > 0).all() if saves else keep.grad is None or not keep.grad.any()


def test_the_expectation_is_differentiable(space, one_hot):
    def milliseconds(keep):
        usages = one_hot(space, pruned(space))
        for name in (AT.format(0) + "intermediate.dense", *(AT.format(0) + part for part in ATTENTION)):
            usages[name] = replace(usages[name], bits=8 * keep, keep=keep, probabilities=None)
        return Latency(space, table=TABLE).expected(usages)

    keep = torch.tensor([0.3, 0.5, 0.7, 0.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(milliseconds, keep)


def test_the_table_adds_up_where_times_are_straight(space):
    cost = Latency(space, table=replace(TABLE, rows=((1, 6.0), (128, 10.0))))
    chosen = pruned(space, rows=2, heads=1)
    kept = {name: torch.tensor(one.bits, dtype=torch.float64).sign() for name, one in chosen.matrices.items()}
    total = sum(float(cost.table(name)[:, 2] @ kept[name]) for name in space.weights)
    whole = sum(float(cost.table(name)[:, 2].sum()) for name in space.weights)
    assert whole - total == pytest.approx(10 - cost.of(chosen))
    assert all(not cost.table(name)[:, 0].any() and torch.equal(*cost.table(name)[:, 1:].T) for name in space.weights)


@pytest.mark.parametrize("budget", [9.2, 7.0, 4.0])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("allocator", ["lagrangian", "greedy", "milp"])
def test_allocations_meet_a_budget(space, allocator, tied, budget):
    space = with_heads_tied(space) if tied else space
    cost, wanted = Latency(space, table=TABLE), scores(space)
    found = ALLOCATORS[allocator]()(space, cost, f"{budget}ms", wanted)
    assert cost.of(found) <= budget
    bits = {name: one.bits for name, one in found.matrices.items()}
    assert all(4 not in one for one in bits.values()), "fewer bits save nothing"
    assert all(0 not in one for name, one in bits.items() if name.endswith("output.dense"))
    if tied:  # one more head would not fit
        assert cost.of(found) > budget - 1.01
        assert all(
            bits[AT.format(layer) + ATTENTION[0]] == bits[AT.format(layer) + part]
            for layer in (0, 1)
            for part in ATTENTION
        )


@pytest.mark.parametrize("allocator", ["lagrangian", "greedy", "milp"])
def test_the_least_is_pruned_to_meet_it(space, allocator):
    """Rows that hurt little go before those that hurt much, and what hurts at 8 bits to what at 4 does not matter."""
    space = with_heads_tied(space)
    hurts = {name: np.tile([1.0, 0.1, 0.0], (4, 1)) for name in space.weights}
    up = AT.format(1) + "intermediate.dense"
    hurts[up] = np.array([[1.0, 0.0, 0.0], [0.02, 0.015, 0.0], [1.0, 0.0, 0.0], [0.01, 0.009, 0.0]])
    found = ALLOCATORS[allocator]()(space, Latency(space, table=TABLE), "8.5ms", hurts)
    assert found.matrices[up].bits[1::2] == (0, 0)
    assert sum(bits == 0 for one in found.matrices.values() for bits in one.bits) == 2


def test_an_impossible_budget_says_the_smallest_possible(space):
    with pytest.raises(BudgetError, match=r"smallest possible is 3 ms"):
        ALLOCATORS["lagrangian"]()(space, Latency(space, table=TABLE), "2ms", scores(space))


@pytest.mark.parametrize("fields", [{"candidates": (2, 4, 8)}, {"bits": (4,) * 4}])
def test_without_zero_nothing_saves_time(make_space, fields):
    space = make_space(2, 256, 128, 4, **fields)
    with pytest.raises(BudgetError, match=r"model takes 10 ms.*put 0 among the bits"):
        limits_of(space, budgets_of("8ms"), TABLE)
    assert limits_of(space, budgets_of("12ms"), TABLE)[0].amount == 12


def test_a_budget_is_measured_by_the_table(space):
    ((cost, limit),) = limits_of(space, budgets_of("8ms@4x32"), TABLE)
    assert (type(cost), limit, cost.latencies) == (Latency, 8, TABLE)
    assert measure(cost, Budget(9.0, "latency")) == (cost, 9)
    with pytest.raises(BudgetError, match="in bytes"):
        measure(cost, Budget.parse("8MB"))
    with pytest.raises(BudgetError, match="known family"):
        COSTS["latency"](replace(space, links=()))


def test_interpolation_is_straight_and_ends_at_the_first_point():
    points = ((1, 6.0), (64, 7.0), (128, 10.0))
    counts = torch.tensor([0, 1, 32.5, 64, 96, 128, 160], dtype=torch.float64, requires_grad=True)
    found = interpolate(counts, points)
    assert_close(found.detach(), torch.tensor([6, 6, 6.5, 7, 8.5, 10, 11.5], dtype=torch.float64))
    found.sum().backward()
    assert_close(counts.grad[[0, 2, 4, 6]], torch.tensor([0, 1 / 63, 3 / 64, 3 / 64], dtype=torch.float64))


def test_tables_are_kept_as_json():
    assert LatencyTable.from_dict(json.loads(json.dumps(TABLE.to_dict()))) == TABLE


@pytest.mark.parametrize(
    "change",
    [{"whole": float("nan")}, {"rows": []}, {"heads": [[1, -2.0]]}, {"layers": 0}, {"rows": 3}, {"whole": None}],
)
def test_no_table_is_made_of_nonsense(change):
    with pytest.raises((KeyError, TypeError, ValueError)):
        LatencyTable.from_dict({**TABLE.to_dict(), **change})
