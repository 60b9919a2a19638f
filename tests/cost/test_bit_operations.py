from dataclasses import replace
from math import log2

import pytest
import torch

from hf_mpq.core import Assignment, MatrixAssignment
from hf_mpq.cost import COSTS, BitOperations


@pytest.mark.parametrize("length, gmac, tera_w8a8, tera_float", [(128, 11.17, 0.715, 11.44), (384, 35.33, 2.26, 36.2)])
def test_bert_base(make_space, uniform, length, gmac, tera_w8a8, tera_float):
    space = make_space(12, 768, 3072, 12, activation_bits=8)
    cost = BitOperations(space, length)
    assert cost.macs / 1e9 == pytest.approx(gmac, abs=0.01)
    assert cost.of(uniform(space, 8)) / 1e12 == pytest.approx(tera_w8a8, rel=2e-3)
    assert cost.float_bops / 1e12 == pytest.approx(tera_float, rel=2e-3)


def test_float_activations_have_32_bits(make_space, uniform):
    space = make_space(layers=1)
    assert BitOperations(space).of(uniform(space, 8)) < BitOperations(space).float_bops
    eight = replace(uniform(space, 8), activation_bits=dict.fromkeys(space.weights, 8))
    dense = 128 * (4 * 64 * 64 + 2 * 64 * 128) * 8
    assert BitOperations(space).of(uniform(space, 8)) - BitOperations(space).of(eight) == dense * 24


def test_the_full_form_by_hand(make_space, uniform):
    space = make_space(layers=1, activation_bits=8)
    dense = 4 * 64 * 64 * (4 * 8 + 8 + 4 + log2(64)) + 64 * 128 * (2 * (4 * 8 + 8 + 4) + log2(64) + log2(128))
    attention = 64 * (2 * (8 * 8 + 8 + 8) + log2(64) + log2(128))
    assert BitOperations(space, form="full").of(uniform(space, 4)) == pytest.approx(128 * dense + 128**2 * attention)


@pytest.mark.parametrize("form", ["simple", "full"])
def test_every_call_of_a_shared_weight_counts(make_space, uniform, form):
    once, twelve = (make_space(layers=1, activation_bits=8, calls=calls) for calls in (1, 12))
    first, second = (BitOperations(space, form=form) for space in (once, twelve))
    assert second.of(uniform(twelve, 4)) == pytest.approx(12 * first.of(uniform(once, 4)))
    assert (second.macs, second.float_bops) == pytest.approx((12 * first.macs, 12 * first.float_bops))


def test_pruned_rows_and_the_columns_that_read_them_cost_nothing(make_space, uniform):
    space = make_space(layers=1, activation_bits=8, groups=2)
    full = uniform(space, 4)
    name = "encoder.layer.0.attention.self.{}"
    values = replace(full, matrices=full.matrices | {name.format("value"): MatrixAssignment((0, 4))})
    saved = BitOperations(space).of(full) - BitOperations(space).of(values)
    assert saved == 128 * (32 * 64 + 64 * 32) * 32 + 128**2 * 32 * 64
    keys = replace(full, matrices=full.matrices | {name.format("key"): MatrixAssignment((0, 4))})
    assert BitOperations(space).of(full) - BitOperations(space).of(keys) == 128 * 32 * 64 * 32 + 128**2 * 32 * 64


@pytest.mark.parametrize("form", ["simple", "full"])
@pytest.mark.parametrize("seed", range(3))
def test_expectation_meets_the_exact_cost(make_space, random, one_hot, form, seed):
    space = make_space(activation_bits=8)
    cost, assignment = BitOperations(space, form=form), random(space, seed)
    assert float(cost.expected(one_hot(space, assignment))) == pytest.approx(cost.of(assignment), rel=1e-9)


def test_expected_activation_bits_are_trained_too(make_space, uniform, one_hot):
    space = make_space(layers=1)
    bits = torch.tensor(6.0, requires_grad=True)
    usages = {key: replace(usage, activation_bits=bits) for key, usage in one_hot(space, uniform(space, 4)).items()}
    BitOperations(space).expected(usages).backward()
    assert bits.grad == 128 * (4 * 64 * 64 + 2 * 64 * 128) * 4


@pytest.mark.parametrize("form", ["simple", "full"])
@pytest.mark.parametrize("mask", [None, "n:m"])
def test_the_table_adds_up_to_the_exact_cost(make_space, uniform, form, mask):
    space = make_space(layers=1, activation_bits=8, links=False, mask=mask, candidates=(0, 2, 4))
    cost = COSTS["bops"](space, form=form)
    for k, bits in enumerate((0, 2, 4)):
        assert cost.of(uniform(space, bits)) == pytest.approx(
            sum(float(cost.table(n)[:, k].sum()) for n in space.weights)
        )


def test_a_mask_drops_products_only(make_space, uniform):
    dense, sparse = (make_space(layers=1, links=False, activation_bits=8, mask=mask) for mask in (None, "n:m"))
    weights = 128 * (4 * 64 * 64 + 2 * 64 * 128)
    for form in ("simple", "full"):
        saved = BitOperations(dense, form=form).of(uniform(dense, 4)) - BitOperations(sparse, form=form).of(
            uniform(dense, 4)
        )
        assert saved == pytest.approx(weights * 4 * 8 / 2)


def test_embeddings_do_not_multiply_and_forms_are_checked(make_space):
    space = make_space(layers=1, kind="embedding", links=False)
    fixed = Assignment({name: MatrixAssignment((8,) * 8) for name in space.weights})
    assert BitOperations(space).of(fixed) == 0
    with pytest.raises(ValueError, match="'simple' or 'full'"):
        BitOperations(space, form="ebops")
