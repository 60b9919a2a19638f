import pytest

from hf_mpq.core import Budget, BudgetError, budgets_of
from hf_mpq.cost import COSTS, AverageBits, BitOperations, PaperSize, StoredSize, float_bytes, limits_of, measure


def test_the_registry_names_every_model():
    assert list(COSTS) == ["activations", "bits", "bops", "energy", "latency", "paper", "size"]


@pytest.mark.parametrize(
    "budget, scope, limit",
    [
        ("12kB", "model", 12e3),
        ("encoder:1MiB", "encoder", 2**20),
        (Budget(5.0, "bytes", "embedding"), "embedding", 5.0),
    ],
)
def test_bytes_are_measured_in_their_scope(make_space, budget, scope, limit):
    cost, amount = measure(StoredSize(make_space()), Budget.parse(budget))
    assert (type(cost), cost.scope, amount) == (StoredSize, scope, limit)


def test_a_ratio_is_of_the_float_file(make_space):
    space = make_space()
    assert measure(StoredSize(space), Budget.parse("0.25x"))[1] == float_bytes(space) / 4
    assert measure(PaperSize(space), Budget.parse("encoder:0.25x"))[1] == PaperSize(space).float_mib / 4


def test_bits_are_always_average_bits(make_space):
    cost, amount = measure(StoredSize(make_space()), Budget.parse("2.5bits"))
    assert (type(cost), amount) == (AverageBits, 2.5)


def test_the_papers_size_is_in_mib(make_space):
    cost, amount = measure(PaperSize(make_space()), Budget.parse("encoder:25MiB"))
    assert (type(cost), amount) == (PaperSize, 25.0)


def test_a_number_is_in_the_unit_of_the_cost(make_space):
    cost = BitOperations(make_space())
    assert measure(cost, 1e9) == (cost, 1e9)


def test_operations_are_bit_operations(make_space):
    cost = BitOperations(make_space())
    assert measure(cost, Budget.parse("2GBOPs")) == (cost, 2e9)
    (limit,) = limits_of(cost.space, budgets_of("0.5TBOPs"))
    assert (type(limit.cost), limit.cost.sequence_length, limit.amount) == (BitOperations, 128, 5e11)


@pytest.mark.parametrize(
    "model, budget, message",
    [
        (StoredSize, "8ms", "8ms@1x128 is no budget of a cost in bytes: give the cost model 'latency'"),
        (StoredSize, "120uJ", "120uJ is no budget of a cost in bytes: give the cost model 'energy'"),
        (StoredSize, "40GBOPs", "40GBOPs is no budget of a cost in bytes: give the cost model 'bops'"),
        (PaperSize, "25MiB", "encoder only"),
        (BitOperations, "25MiB", "cannot measure a budget in bytes"),
    ],
)
def test_budgets_that_cannot_be_measured(make_space, model, budget, message):
    with pytest.raises(BudgetError, match=message):
        measure(model(make_space()), Budget.parse(budget))
