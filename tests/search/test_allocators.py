"""Every allocator keeps the exact budget; and each does what it is for."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from hf_mpq.core import ActivationSpec, Assignment, BudgetError, MatrixAssignment, PrecisionSpace
from hf_mpq.cost import ActivationBytes, AverageBits, BitOperations, Limit, StoredSize
from hf_mpq.search import ALLOCATORS
from hf_mpq.search.allocators import ranked_candidates, solve, solve_program
from hf_mpq.search.allocators.unmet import unmet


def damage_of(space, scores):
    """Total score of an assignment: what an evaluation might give."""
    column = {name: {bits: k for k, bits in enumerate(spec.candidates)} for name, spec in space.weights.items()}
    return lambda assignment: float(
        sum(
            table[group, column[name][bits]]
            for name, table in scores.items()
            for group, bits in enumerate(assignment.matrices[name].bits)
        )
    )


def all_assignments(space):
    names, specs = list(space.weights), list(space.weights.values())
    for choice in product(*(product(spec.candidates, repeat=spec.layout.count) for spec in specs)):
        yield Assignment({name: MatrixAssignment(bits) for name, bits in zip(names, choice)})


def bits_of(assignment) -> list[int]:
    return [bits for matrix in assignment.matrices.values() for bits in matrix.bits]


@pytest.fixture(params=["linked", "tied", "uneven"])
def case(request, make_space, make_scores, make_spec):
    space = make_space(6, (0, 2, 3, 4, 8))
    if request.param == "tied":
        weights = {name: replace(spec, tie="one") if name != "down" else spec for name, spec in space.weights.items()}
        space = PrecisionSpace(weights)
    if request.param == "uneven":
        more = {"layer.0.extra": make_spec((33, 64), 5, (2, 4)), "layer.1.extra": make_spec((33, 64), 5, (2, 4))}
        space = PrecisionSpace({**space.weights, **more})
    return space, make_scores(space)


@pytest.mark.parametrize("budget", ["encoder:3.5bits", "5.5kB", "9kB"])
@pytest.mark.parametrize("name", list(ALLOCATORS))
def test_contract(name, budget, case):
    space, scores = case
    budget = budget.replace("5.5kB", "7kB") if len(space.weights) > 3 else budget
    cost = AverageBits(space) if "bits" in budget else StoredSize(space)
    given = {"evaluate": damage_of(space, scores)} if ALLOCATORS[name].needs_evaluate or name == "ranked" else {}
    first, again = (ALLOCATORS[name]()(space, StoredSize(space), budget, scores, **given) for _ in range(2))
    number = float(budget.removeprefix("encoder:").removesuffix("bits").removesuffix("kB"))
    limit = number if "bits" in budget else 1e3 * number
    assert cost.of(first) <= limit * (1 + 1e-9)
    assert cost.of(first) >= 0.5 * limit or max(bits_of(first)) == 8, "most of it is used"
    assert first.to_dict() == again.to_dict()
    tied = {matrix.bits for key, matrix in first.matrices.items() if space.weights[key].tie}
    assert len(tied) <= 1


@pytest.mark.parametrize("name", list(ALLOCATORS))
def test_activation_bits_of_the_space_are_in_the_assignment(name, make_space, make_scores):
    space = make_space(4, (2, 4, 8))
    inputs = {key: 8 - number for number, key in enumerate(space.weights)}
    weights = {key: replace(spec, activation=ActivationSpec(bits=inputs[key])) for key, spec in space.weights.items()}
    space = PrecisionSpace(weights)
    scores = make_scores(space)
    found = ALLOCATORS[name]()(space, StoredSize(space), "8kB", scores, damage_of(space, scores))
    assert found.activation_bits == inputs


@pytest.mark.parametrize("name", list(ALLOCATORS))
def test_impossible_budgets_say_the_smallest_possible(name, make_space, make_scores):
    space = make_space(4, (2, 4, 8))
    scores = make_scores(space)
    with pytest.raises(BudgetError, match=r"smallest possible is [\d,.]+ bytes"):
        ALLOCATORS[name]()(space, StoredSize(space), "1kB", scores, damage_of(space, scores))


@pytest.mark.parametrize("name", list(ALLOCATORS))
def test_allocators_say_what_they_need(name, make_space, make_scores):
    space = make_space()
    scores, allocator = make_scores(space), ALLOCATORS[name]()
    counted = []

    def evaluate(assignment):
        counted.append(assignment)
        return damage_of(space, scores)(assignment)

    found = allocator(space, StoredSize(space), "5kB", scores, evaluate)
    assert len(counted) <= allocator.evaluation_count(space), "it measures no more than it says"
    if allocator.needs_evaluate:
        with pytest.raises(ValueError, match="give evaluate"):
            allocator(space, StoredSize(space), "5kB", scores)
    if allocator.needs_scores:
        with pytest.raises(ValueError, match=f"{name} allocator needs scores"):
            allocator(space, StoredSize(space), "5kB", None, evaluate)
    if not allocator.reads_scores:
        given = {"evaluate": evaluate} if allocator.needs_evaluate else {}
        assert found.to_dict() == allocator(space, StoredSize(space), "5kB", **given).to_dict()


@pytest.mark.parametrize("seed", range(4))
def test_the_program_finds_the_best_of_all(seed, make_space, make_scores):
    space = replace(make_space(2, (0, 2, 4)), links=())
    scores, cost = make_scores(space, seed), StoredSize(space)
    damage = damage_of(space, scores)
    result = solve_program(space, cost, "3.5kB", scores, gap=0)
    best = min(damage(one) for one in all_assignments(space) if cost.of(one) <= 3500)
    assert result.score == pytest.approx(damage(result.assignment))
    assert result.score <= best * 1.02, "up to what the map costs"
    assert solve(space, cost, "3.5kB", scores).score >= best * (1 - 1e-9)


def test_at_most_so_many_formats(make_space, make_scores):
    space, formats = make_space(8, (0, 2, 3, 4, 8)), lambda bits: len(set(bits) - {0})
    scores = make_scores(space)
    free = ALLOCATORS["milp"]()(space, StoredSize(space), "6kB", scores)
    held = ALLOCATORS["milp"](formats=1)(space, StoredSize(space), "6kB", scores)
    assert max(formats(matrix.bits) for matrix in free.matrices.values()) > 1
    assert all(formats(matrix.bits) <= 1 for matrix in held.matrices.values())
    with pytest.raises(ValueError, match="formats must be at least 1"):
        ALLOCATORS["milp"](formats=0)(space, StoredSize(space), "6kB", scores)


def test_two_limits_together(make_space, make_scores):
    space = make_space(8, (0, 2, 4, 8))
    size, work, scores = StoredSize(space), BitOperations(space, 16), make_scores(space)
    free = ALLOCATORS["milp"]()(space, size, "7kB", scores)
    limit = 0.7 * work.of(free)
    held = ALLOCATORS["milp"]()(space, size, ["7kB", Limit(work, limit)], scores)
    assert size.of(held) <= 7000 and work.of(held) <= limit
    assert damage_of(space, scores)(held) > damage_of(space, scores)(free)
    least = make_space(8, (2, 4))
    with pytest.raises(BudgetError, match=r"smallest possible is [\d.e+]+ GBOPs"):
        ALLOCATORS["milp"]()(least, StoredSize(least), ["9kB", Limit(BitOperations(least), 10.0)], make_scores(least))


@pytest.mark.parametrize("direction", ["up", "down"])
def test_greedy_comes_close_from_both_sides(direction, make_space, make_scores):
    space = make_space(12, (0, 2, 3, 4, 8))
    scores = make_scores(space)
    damage = damage_of(space, scores)
    found = damage(ALLOCATORS["greedy"](direction=direction)(space, StoredSize(space), "6kB", scores))
    bound = solve(space, StoredSize(space), "6kB", scores).score
    assert 0.9 * bound < found < 1.5 * bound
    with pytest.raises(ValueError, match="'down' or 'up'"):
        ALLOCATORS["greedy"](direction="left")(space, StoredSize(space), "6kB", scores)


def test_uniform_takes_one_precision_or_the_two_next_to_a_fraction(make_space):
    space = make_space(16, (0, 2, 3, 4, 8))
    size = StoredSize(space)
    assert set(bits_of(ALLOCATORS["uniform"]()(space, size, "encoder:3.6bits"))) == {3}
    one, other = (ALLOCATORS["uniform"](fraction=True, seed=seed)(space, size, "encoder:3.6bits") for seed in (0, 1))
    assert set(bits_of(one)) == {3, 4} == set(bits_of(other)) and bits_of(one) != bits_of(other)
    assert 3.6 - 1 / 30 < AverageBits(space).of(one) <= 3.6
    assert 0 not in bits_of(ALLOCATORS["uniform"](fraction=True)(space, size, "encoder:2bits"))
    assert set(bits_of(ALLOCATORS["uniform"](fraction=True)(space, size, "encoder:1bits"))) == {0, 2}


def test_a_literal_threshold(make_space, make_scores):
    space = make_space(6, (2, 3, 4, 8))
    scores = {name: table / table.max() for name, table in make_scores(space).items()}
    found = ALLOCATORS["distortion"](tau=0.1)(space, StoredSize(space), "100kB", scores)
    for name, matrix in found.matrices.items():
        for bits, row in zip(matrix.bits, scores[name]):
            below = [b for b, score in zip((2, 3, 4, 8), row) if score < 0.1]
            assert bits == min(below, default=8)
    with pytest.raises(BudgetError, match="tau=1e-12 needs"):
        ALLOCATORS["distortion"](tau=1e-12)(space, StoredSize(space), "6kB", scores)


def test_sorted_layers(make_spec, make_scores):
    space = PrecisionSpace({f"layer.{n}.{part}": make_spec((32, 32), 4, (2, 4)) for n in range(4) for part in "ab"})
    scores = make_scores(space)
    for n, factor in enumerate((3.0, 100.0, 1.0, 10.0)):
        for part in "ab":
            scores[f"layer.{n}.{part}"] = np.tile([factor, factor / 16], (4, 1))
    bits = lambda found: [found.matrices[f"layer.{n}.a"].bits[0] for n in range(4)]  # noqa: E731
    allocate = ALLOCATORS["sorted-layers"]
    assert bits(allocate()(space, StoredSize(space), "3bits", scores)) == [2, 4, 2, 4]
    assert bits(allocate(count=3)(space, StoredSize(space), "4bits", scores)) == [4, 4, 2, 4]
    with pytest.raises(BudgetError, match="whole layers at two precisions"):
        allocate(count=3)(space, StoredSize(space), "3bits", scores)
    with pytest.raises(ValueError, match="count must be 0 to 4"):
        allocate(count=5)(space, StoredSize(space), "4bits", scores)
    with pytest.raises(ValueError, match="are not among the candidates"):
        allocate(bits=(3, 4))(space, StoredSize(space), "4bits", scores)


def test_the_threshold_search_counts_its_evaluations_and_orders_by_importance(make_space, make_scores):
    space = make_space(12, (0, 2, 4))
    scores, seen = make_scores(space), []
    damage = damage_of(space, scores)

    def evaluate(assignment):
        seen.append(assignment)
        return damage(assignment)

    found = ALLOCATORS["threshold"](first_drop=1.0, step=0.1)(space, StoredSize(space), "4kB", scores, evaluate)
    assert 0 < len(seen) <= 2 * 10 * 2 + 2
    pairs = sorted(
        (scores[name][group, 0], bits)
        for name, matrix in found.matrices.items()
        for group, bits in enumerate(matrix.bits)
    )
    assert [bits for _, bits in pairs] == sorted(bits for _, bits in pairs), "more important, more bits"
    with pytest.raises(ValueError, match="give evaluate"):
        ALLOCATORS["threshold"]()(space, StoredSize(space), "4kB", scores)
    with pytest.raises(ValueError, match="step must be above 0"):
        ALLOCATORS["threshold"](step=0)(space, StoredSize(space), "4kB", scores, evaluate)


def test_ranking_is_exhaustive_over_kinds_of_matrices(make_spec, make_scores):
    space = PrecisionSpace({f"layer.{n}.{part}": make_spec((32, 32), 2, (0, 2, 4)) for n in range(3) for part in "ab"})
    scores = make_scores(space)
    damage, cost = damage_of(space, scores), StoredSize(space)
    found = ranked_candidates(space, cost, "2kB", None, damage, keep=3)
    truth = sorted(
        damage(one)
        for a, b in product((0, 2, 4), repeat=2)
        if cost.of(
            one := Assignment(
                {name: MatrixAssignment(((a if name.endswith("a") else b),) * 2) for name in space.weights}
            )
        )
        <= 2000
    )
    assert [value for _, value in found] == pytest.approx(truth[:3])
    for one, _ in found:
        assert len({one.matrices[f"layer.{n}.a"].bits for n in range(3)}) == 1
    by_score = ranked_candidates(space, cost, "2kB", scores, keep=1)
    assert by_score[0][1] == pytest.approx(truth[0])
    with pytest.raises(ValueError, match="needs scores or evaluate"):
        ranked_candidates(space, cost, "2kB")


@pytest.mark.parametrize(
    ("limit", "least", "cost", "said"),
    [
        (1000, 1000.4, StoredSize, "1,000 bytes cannot be met; the smallest possible is 1,001 bytes, 1 bytes more"),
        (624_645, 4_250_430, StoredSize, "0.62 MB cannot be met; the smallest possible is 4.26 MB, 3.63 MB more"),
        (12e6, 12_000_001, StoredSize, "12.00 MB cannot be met; the smallest possible is 12.01 MB, 1 bytes more"),
        (1.5, 2, AverageBits, "1.5 bits cannot be met; the smallest possible is 2 bits, 0.5 bits more"),
        (
            1e6,
            3e6,
            ActivationBytes,
            "1.00 MB of activations cannot be met; the smallest possible is 3.00 MB, 2.00 MB more",
        ),
    ],
)
def test_a_budget_beside_the_smallest_possible(limit, least, cost, said, make_space):
    """In the units of reports; what is named can be met."""
    assert str(unmet(Limit(cost(make_space()), limit), least)) == f"the budget of {said}"
