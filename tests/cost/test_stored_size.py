from dataclasses import replace

import pytest
import torch

from hf_mpq.core import (
    Assignment,
    BudgetError,
    MatrixAssignment,
    MatrixStorage,
    PrecisionSpace,
    SubgroupLayout,
    Usage,
    WeightSpec,
)
from hf_mpq.cost import StoredSize, float_bytes

FLOATS = dict.fromkeys(range(1, 9), 2)


def one_matrix(bits=None, shape=(10, 20), groups=4, **fields):
    fields = {"candidates": (0, 2, 4, 8), "floats": FLOATS} | fields
    return PrecisionSpace({"m": WeightSpec(SubgroupLayout(shape, groups), bits=bits, **fields)})


def stored(space, *bits, **fields):
    return StoredSize(space).of(Assignment({"m": MatrixAssignment(bits, **fields)}))


def test_one_matrix_by_hand():
    # 3 rows at 2 bit, 3 and 2 at 4, 2 pruned; a row of 20 codes is 3 bytes a plane
    assert stored(one_matrix(), 2, 4, 4, 0) == (3 * 2 + 5 * 4) * 3 + 3 * 2 * 2 + 2 * 1 + 10 * 2


def test_fixed_bits_need_no_word_in_the_assignment():
    assert StoredSize(one_matrix((2, 4, 4, 0))).of(Assignment({})) == stored(one_matrix(), 2, 4, 4, 0)


def test_nested_codes_are_stored_once_at_the_highest_precision():
    space = one_matrix(candidates=(2, 4, 8), nested=(2, 4, 8))
    assert stored(space, 2, 2, 4, 4) == stored(space, 8, 8, 8, 8) == stored(one_matrix(), 8, 8, 8, 8)


def test_a_mask_costs_what_its_smallest_encoding_does():
    space = one_matrix(mask="n:m", mask_options={"kept": 1, "block": 4})
    others = 4 * 2 * 2 + 10 * 2
    assert stored(space, 4, 4, 4, 4, keep_of=(2, 4)) == 4 * 13 + 3 * 7 + others  # 100 codes, 50 blocks of 6 patterns
    assert stored(space, 4, 4, 4, 4) == 4 * 7 + 2 * 7 + others
    half = one_matrix(mask="element", mask_options={"density": 0.5})
    assert stored(half, 4, 4, 4, 4) == 4 * 13 + 25 + others
    sparse = one_matrix(mask="element", mask_options={"density": 0.1})
    assert stored(sparse, 4, 4, 4, 4) == 4 * 3 + 13 + others  # 20 codes and 5 or 6 escapes, two in a byte
    flags = one_matrix(mask="element", mask_options={"density": 0.1, "encoding": "flags"})
    assert stored(flags, 4, 4, 4, 4) == 4 * 3 + 25 + others


def test_pruned_rows_take_their_bias_and_their_columns_away(make_space, uniform):
    space = make_space(layers=1, groups=8)  # fc1 sub-groups of 16 rows, fc2 rows of 128 codes
    full = uniform(space, 4)
    matrices = full.matrices | {"encoder.layer.0.intermediate.dense": MatrixAssignment((0, 4, 4, 4, 4, 4, 4, 4))}
    rows, columns = 16 * 4 * 64 // 8 + 2 + 16 * 2, 64 * 4 * 16 // 8
    masks, the_map = 128 // 8 + 128 // 8, 1
    saved = StoredSize(space).of(full) - StoredSize(space).of(replace(full, matrices=matrices))
    assert saved == rows + columns - masks - the_map


def test_scopes_add_up():
    layout = SubgroupLayout((8, 8), 2)
    spec = {"candidates": (2, 4), "floats": FLOATS}
    weights = {role: WeightSpec(layout, role=role, **spec) for role in ("encoder", "embedding", "projection")}
    space = PrecisionSpace(
        weights,
        other_bytes=1000,
        encoder_other_bytes=100,
        embedding_other_bytes=10,
        norm_parameters=30,
        encoder_norm_parameters=20,
        norm_dtype="float32",
    )
    each = 8 * 4 + 2 * 2 * 2 + 8 * 2
    assignment = Assignment(dict.fromkeys(weights, MatrixAssignment((4, 4))))
    assert StoredSize(space, "encoder").of(assignment) == each + 80 + 100
    assert StoredSize(space, "embedding").of(assignment) == each + 40 + 10
    assert StoredSize(space).of(assignment) == 3 * each + 120 + 1000
    assert float_bytes(space, "encoder") == 72 * 4 + 20 * 4 + 100
    assert float_bytes(space, "embedding") == 72 * 4 + 10 * 4 + 10
    assert float_bytes(space) == 3 * 72 * 4 + 30 * 4 + 1000


def padding(space, assignment):
    """One byte for each plane of each line, and for each stored tensor."""
    specs = space.weights
    return sum(
        sum(b * n for b, n in zip(m.bits, specs[name].layout.sizes)) + 7 for name, m in assignment.matrices.items()
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("width, inner, groups", [(64, 128, 8), (60, 100, 7), (128, 128, "matrix")])
@pytest.mark.parametrize("with_probabilities", [True, False])
def test_expectation_meets_the_exact_cost(make_space, random, one_hot, seed, width, inner, groups, with_probabilities):
    space = make_space(width=width, inner=inner, groups=1 if groups == "matrix" else groups)
    assignment = random(space, seed)
    exact = StoredSize(space).of(assignment)
    expected = float(StoredSize(space).expected(one_hot(space, assignment, with_probabilities)))
    assert -1e-6 <= exact - expected <= padding(space, assignment)


def test_expectation_is_exact_without_padding(make_space, uniform, one_hot):
    space = make_space(candidates=(2, 4))
    usages = one_hot(space, uniform(space, 4))
    assert float(StoredSize(space).expected(usages)) == StoredSize(space).of(uniform(space, 4))


@pytest.mark.parametrize(
    "fields",
    [
        {"nested": (2, 4, 8), "candidates": (2, 4, 8)},
        {"mask": "n:m", "candidates": (2, 4, 8)},
        {"mask": "element", "candidates": (2, 4, 8), "mask_options": {"density": 0.25}},
    ],
)
def test_expectation_of_masks_and_nested_codes(make_space, uniform, one_hot, fields):
    space = make_space(**fields)
    usages = one_hot(space, uniform(space, 8))
    assert float(StoredSize(space).expected(usages)) == pytest.approx(StoredSize(space).of(uniform(space, 8)), abs=48)


def test_expected_live_columns_follow_the_keep_probabilities(make_space, uniform, one_hot):
    space = make_space(layers=1, candidates=(0, 4))
    usages = one_hot(space, uniform(space, 4))
    half = torch.full((8,), 0.5, dtype=torch.float64)
    usages["encoder.layer.0.intermediate.dense"] = Usage(half * 4, half, torch.stack([half, half], dim=1))
    whole, part = (float(StoredSize(space).expected(u)) for u in (one_hot(space, uniform(space, 4)), usages))
    codes = 64 * 4 * 64 // 8 + 128 * 4 * 64 // 8 // 2  # half of the columns of fc2, half of the rows of fc1
    others = 8 * 2 / 2 + 64 * 2 - 16 - 16 - 1  # scales and biases; two masks and a map
    assert whole - part == pytest.approx(codes + others, abs=0.1)


@pytest.mark.parametrize("fields", [{}, {"mask": "n:m"}, {"nested": (2, 4), "candidates": (0, 2, 4)}])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_table_adds_up_to_the_exact_cost(fields, axis):
    space = one_matrix(shape=(16, 24), groups=4, bias=False, **fields)
    space.weights["m"] = replace(space.weights["m"], layout=SubgroupLayout((16, 24), 4, axis=axis))
    candidates, table = space.weights["m"].candidates, StoredSize(space).table("m")
    for k, bits in enumerate(candidates):
        assert stored(space, *[bits] * 4) == table[:, k].sum()
    mixed = [0, 1, 2, 1]
    bits = [candidates[k] for k in mixed]
    the_map = MatrixStorage.of(space.weights["m"].layout, bits, FLOATS, encoding="").map_bits
    the_map = 1 if "nested" in fields else the_map
    assert stored(space, *bits) == sum(float(table[g, k]) for g, k in enumerate(mixed)) + the_map


def test_the_table_of_another_scope_is_zero():
    assert not StoredSize(one_matrix(), "embedding").table("m").any()


@pytest.mark.parametrize(
    "assignment, message",
    [
        (Assignment({}), "says nothing about 'm'"),
        (Assignment({"m": MatrixAssignment((2, 2))}), "'m' has 4 sub-groups, but the assignment gives 2"),
    ],
)
def test_assignments_that_do_not_fit_are_refused(assignment, message):
    with pytest.raises(ValueError, match=message):
        StoredSize(one_matrix()).of(assignment)


def test_missing_usages_and_unknown_scopes_are_refused():
    with pytest.raises(ValueError, match="no usage was given for 'm'"):
        StoredSize(one_matrix()).expected({})
    with pytest.raises(BudgetError, match="unknown scope 'head'"):
        StoredSize(one_matrix(), "head")
