"""Bytes of activations: by hand arithmetic, in expectation as exactly, and as budgets."""

from dataclasses import replace

import pytest
import torch

from hf_mpq.core import ActivationSpec, Budget, MatrixAssignment
from hf_mpq.cost import ActivationBytes, measure

LAYER = "encoder.layer.0."


@pytest.mark.parametrize("bits", [8, 4])
def test_bert_base_at_128_tokens_by_hand(make_space, uniform, bits):
    """A layer reads 128 x 768 in query, key, value, output and up, 128 x 3072 in down, and 12 x 128 x 128 scores."""
    space = make_space(12, 768, 3072, 12, activation_bits=bits)
    inputs, scores = 128 * (5 * 768 + 3072), 12 * 128 * 128
    assert (inputs, scores) == (884_736, 196_608)
    assert ActivationBytes(space).of(uniform(space, 2)) == 12 * (inputs + scores) * bits / 8
    assert ActivationBytes(space).of(uniform(space, 2)) == {8: 12_976_128, 4: 6_488_064}[bits]
    assert ActivationBytes(space, over="max").of(uniform(space, 2)) == 128 * 3072 * bits / 8
    assert ActivationBytes(space).float_bytes == 4 * 12_976_128


def test_length_batch_and_calls(make_space, uniform):
    space = make_space(1, 64, 128, 8, activation_bits=8)
    of = lambda space, *given: ActivationBytes(space, *given).of(uniform(space, 4))  # noqa: E731
    assert of(space, 10) == 10 * (5 * 64 + 128) + 1 * 10 * 10
    assert of(space, 10, 3) == 3 * of(space, 10)
    shared = make_space(1, 64, 128, 8, activation_bits=8, calls=6)
    assert of(shared, 10) == 6 * of(space, 10)
    assert of(shared, 300, 1, "max") == of(space, 300, 1, "max") == 300 * 300, "the scores are the largest here"


def test_float_inputs_have_32_bits_and_the_assignment_wins(make_space, uniform):
    space = make_space(1, 64, 128, 8)
    assert ActivationBytes(space, 10).of(uniform(space, 4)) == 4 * (10 * (5 * 64 + 128) + 100)
    said = replace(uniform(space, 4), activation_bits={f"{LAYER}output.dense": 4})
    assert ActivationBytes(space, 10).of(said) == 4 * (10 * 5 * 64 + 100) + 10 * 128 / 2


def test_columns_that_read_pruned_rows_and_heads_without_values_are_gone(make_space, uniform):
    space, cost = make_space(1, 128, 128, 4, activation_bits=8), lambda space: ActivationBytes(space, 10)
    full = uniform(space, 4)

    def without(name):
        pruned = {**full.matrices, f"{LAYER}{name}": MatrixAssignment((0, 0, 4, 4))}
        return cost(space).of(full) - cost(space).of(replace(full, matrices=pruned))

    assert without("intermediate.dense") == 10 * 64
    assert without("attention.self.value") == 10 * 64 + 10 * 10, "64 of 128 rows are one of two heads"


@pytest.mark.parametrize("over", ["sum", "max"])
@pytest.mark.parametrize("groups", [4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_expectation_meets_the_exact_cost(make_space, random, one_hot, over, groups, seed):
    space = make_space(2, 128, 256, groups, activation_bits=6)
    cost, assignment = ActivationBytes(space, 20, over=over), random(space, seed)
    assert float(cost.expected(one_hot(space, assignment))) == pytest.approx(cost.of(assignment), rel=1e-9)


@pytest.mark.parametrize("over, read", [("sum", {64: 5, 128: 1}), ("max", {128: 1})])
def test_expected_activation_bits_are_trained(make_space, uniform, one_hot, over, read):
    space = make_space(1, 64, 128, 8, links=False)
    bits = torch.tensor(6.0, requires_grad=True, dtype=torch.float64)
    usages = {name: replace(one, activation_bits=bits) for name, one in one_hot(space, uniform(space, 4)).items()}
    ActivationBytes(space, 10, over=over).expected(usages).backward()
    assert bits.grad == sum(10 * width * count / 8 for width, count in read.items())


def test_what_is_kept_is_trained(make_space, uniform, one_hot):
    space = make_space(1, 64, 128, 8, activation_bits=8)
    usages = one_hot(space, uniform(space, 4))
    keep = torch.full((8,), 0.5, dtype=torch.float64, requires_grad=True)
    usages[f"{LAYER}intermediate.dense"] = replace(usages[f"{LAYER}intermediate.dense"], keep=keep)
    ActivationBytes(space, 10).expected(usages).backward()
    assert keep.grad.tolist() == [10 * 16] * 8


def test_the_table_adds_up_to_the_inputs(make_space, uniform):
    space = make_space(1, 64, 128, 8, activation_bits=8, links=False)
    cost = ActivationBytes(space, 10)
    tables = {name: cost.table(name) for name in space.weights}
    assert sum(float(table[:, 0].sum()) for table in tables.values()) == cost.of(uniform(space, 0))
    assert all((table == table[:, :1]).all() for table in tables.values()), "bits of weights change nothing"
    name = f"{LAYER}output.dense"
    torch.testing.assert_close(cost.table(name, live_columns=32), tables[name] / 4)


@pytest.mark.parametrize(
    "text, over, tokens, batch, amount",
    [
        ("activations:2500kB", "sum", 128, 1, 2.5e6),
        ("peak-activations:1MiB", "max", 128, 1, 2**20),
        ("activations:800kB@4x32", "sum", 32, 4, 8e5),
    ],
)
def test_budgets_of_activations(make_space, text, over, tokens, batch, amount):
    budget = Budget.parse(text)
    assert Budget.parse(str(budget)) == budget and budget.limits == text.partition(":")[0]
    cost, limit = measure(ActivationBytes(make_space()), budget)
    assert (cost.over, cost.sequence_length, cost.batch, limit, cost.what) == (
        over,
        tokens,
        batch,
        amount,
        budget.scope,
    )


def test_a_share_is_of_float_activations(make_space, uniform):
    space = make_space(activation_bits=8)
    cost, limit = measure(ActivationBytes(space), Budget.parse("activations:25%"))
    assert limit == cost.of(uniform(space, 2))


def test_bits_of_single_inputs(make_space, uniform):
    space = make_space(1, 64, 128, 8, activation_bits=8)
    weights = {
        **space.weights,
        f"{LAYER}output.dense": replace(space.weights[f"{LAYER}output.dense"], activation=ActivationSpec(bits=4)),
    }
    assert (
        ActivationBytes(space, 10).of(uniform(space, 4))
        - ActivationBytes(replace(space, weights=weights), 10).of(uniform(space, 4))
        == 10 * 128 / 2
    )


def test_another_word_for_over_is_refused(make_space):
    with pytest.raises(ValueError, match="'sum' or 'max', got 'mean'"):
        ActivationBytes(make_space(), over="mean")
