"""Evolution: mutations stay inside, the window holds, nothing is measured twice, and small spaces are solved."""

from collections import Counter
from itertools import product

import pytest

from hf_mpq.core import Assignment, BudgetError, MatrixAssignment
from hf_mpq.search import evolution
from hf_mpq.search.evolution import Evolution, Gene

GENES = {"layers": Gene((2, 4, 6), 0.25), "hidden": Gene((24, 32, 48)), "rows": Gene((64, 96, 128), reach=2)}


def cost(values):
    return values["layers"] * values["hidden"] * (values["hidden"] + values["rows"]) / 1000


def fitness(values):
    return values["layers"] ** 0.5 + values["hidden"] / 20 + values["rows"] / 90 - (values["rows"] == 96)


def made(window=(0, 1e9), **options):
    return Evolution(GENES, cost, window, **options)


@pytest.mark.parametrize("listed", [True, False])
def test_all_27_points_are_found_once_and_the_best_is_that_of_exhaustion(listed, monkeypatch):
    monkeypatch.setattr(evolution, "LISTED", 200_000 if listed else 0)
    window = (8, 20)
    inside = [
        values
        for point in product(*(gene.values for gene in GENES.values()))
        if window[0] <= cost(values := dict(zip(GENES, point))) <= window[1]
    ]
    assert 5 < len(inside) < 20
    calls, search = [], made(window)
    found = search.search(lambda values: calls.append(tuple(values.values())) or fitness(values))
    assert found == max(inside, key=fitness)
    assert sorted(calls) == sorted(tuple(values.values()) for values in inside)  # each once, then it ends
    assert max(Counter(calls).values()) == 1


def test_a_short_search_finds_the_best_of_most_seeds():
    best = max((dict(zip(GENES, one)) for one in product(*(gene.values for gene in GENES.values()))), key=fitness)
    runs = [made(first=4, population=5, generations=2, seed=seed) for seed in range(20)]
    found = [one.search(fitness) for one in runs]
    assert all(len(one.measured) == 14 for one in runs)
    assert found.count(best) >= 14  # drawing 14 of 27 at random finds it in 10 of 20


def test_mutations_stay_inside_and_within_reach():
    search, seen = made(), Counter()
    for start in product(range(3), repeat=3):
        for _ in range(60):
            point = search.mutation(start)
            assert all(0 <= place < 3 for place in point)
            assert all(abs(a - b) <= gene.reach for a, b, gene in zip(point, start, GENES.values()))
            seen.update(name for name, a, b in zip(GENES, point, start) if a != b)
    assert seen["layers"] / 1620 == pytest.approx(0.25, abs=0.05)
    assert seen["rows"] / 1620 == pytest.approx(0.5, abs=0.05)


def test_roulette():
    search = made()
    points = {(0, 0, 0): 1.0, (1, 0, 0): 2.0, (2, 0, 0): 4.0}
    seen = Counter(search.roulette(points) for _ in range(4000))
    assert (0, 0, 0) not in seen and seen[2, 0, 0] / seen[1, 0, 0] == pytest.approx(3, rel=0.2)
    equal = Counter(search.roulette(dict.fromkeys(points, 0.5)) for _ in range(3000))
    assert all(count == pytest.approx(1000, rel=0.15) for count in equal.values())


def test_children_come_of_what_was_measured():
    genes = {"x": Gene(tuple(range(2000)), 1.0), "y": Gene(tuple(range(2000)), 1.0)}
    search = Evolution(genes, lambda values: 0.0, (0, 1), first=1, population=4, generations=1, fresh=0.0)
    search.search(lambda values: 0.0)
    parent, *children = search.measured
    assert len(children) == 4
    assert all(max(abs(a - b) for a, b in zip(parent, child)) == 1 for child in children)


def test_the_same_seed_finds_the_same():
    runs = [made(first=3, population=4, generations=2, seed=seed) for seed in (1, 1, 2)]
    for one in runs:
        one.search(fitness)
    assert list(runs[0].measured) == list(runs[1].measured) != list(runs[2].measured)


def test_it_begins_where_it_is_told():
    begin = [{"layers": 6, "hidden": 48, "rows": 128}, {"layers": 2, "hidden": 24, "rows": 64}]
    search = made((0, 20), first=1, generations=0)
    search.search(fitness, begin)
    assert search.values(next(iter(search.measured))) == begin[1]
    assert len(search.measured) == 2


def test_nothing_in_the_window():
    with pytest.raises(BudgetError, match=r"they cost 4\.224 to 50\.688"):
        made((1000, 2000)).search(fitness)


def test_assignments():
    """Bits of matrices are genes like others."""
    sizes = {"a": 10, "b": 20, "c": 30}
    genes = {name: Gene((2, 4, 8), 1 / 3) for name in sizes}

    def bits(values):
        return sum(values[name] * size for name, size in sizes.items())

    def damage(values):
        assignment = Assignment({name: MatrixAssignment((one,)) for name, one in values.items()})
        return -sum(4.0 ** -matrix.bits[0] * sizes[name] for name, matrix in assignment.matrices.items())

    found = Evolution(genes, bits, (0, 240)).search(damage)
    every = (dict(zip(genes, one)) for one in product((2, 4, 8), repeat=3))
    assert found == max((one for one in every if bits(one) <= 240), key=damage)


@pytest.mark.parametrize(
    "make", [lambda: Gene(()), lambda: Gene((1, 1)), lambda: Gene((1,), 0), lambda: Gene((1,), 1, 0)]
)
def test_wrong_genes(make):
    with pytest.raises(ValueError):
        make()
