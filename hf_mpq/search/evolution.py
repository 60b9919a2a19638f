"""Evolutionary search over a product of ordered choices, within a window of cost."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from ..core import BudgetError

Point = tuple[int, ...]
LISTED = 200_000
"""The largest space whose points are listed; in a larger one they are drawn."""
DRAWS = 2000
"""Draws without a new point in the window after which there is none."""


@dataclass(frozen=True)
class Gene:
    """One dimension of the search.

    Attributes:
        values: what it may be, in order.
        chance: that a mutation changes it, above 0 and up to 1.
        reach: how many places a mutation moves it at most, up or down.

    Raises:
        ValueError: for no values, the same one twice, a chance that is none or a reach below 1.
    """

    values: tuple[Any, ...]
    chance: float = 0.5
    reach: int = 1

    def __post_init__(self):
        if not self.values or len(set(self.values)) < len(self.values):
            raise ValueError(f"a gene has distinct values, at least one; got {self.values!r}")
        if not 0 < self.chance <= 1 or self.reach < 1:
            raise ValueError(f"chance is above 0 and up to 1, reach at least 1; got {self.chance} and {self.reach}")


class Evolution:
    """The search of AutoTinyBERT (Yin et al., ACL 2021) and Bigger & Faster (Bailey et al., 2022), as in their code.

    It starts from points drawn evenly from those whose cost is in the window. Every member of a later generation is,
    evenly likely, another such point or the mutation of one that was measured, which is chosen by how much better its
    fitness is than the worst one's (evenly where all are equal). A mutation stays among a gene's values and in the
    window. No point is measured twice; the search ends early when none is left.

    Args:
        genes: name to dimension.
        cost: of the values by name, in the unit of the window.
        window: least and highest cost.
        first: points of the first generation.
        population: points of each later one.
        generations: after the first.
        fresh: chance that a member is drawn and not mutated.
        seed: of all draws; the same search finds the same.

    Raises:
        BudgetError: when no point has a cost in the window; it names the lowest and highest costs, where it knows them.
        ValueError: for no genes, or counts below 1.
    """

    def __init__(
        self,
        genes: Mapping[str, Gene],
        cost: Callable[[Mapping[str, Any]], float],
        window: tuple[float, float],
        first: int = 10,
        population: int = 25,
        generations: int = 4,
        fresh: float = 0.5,
        seed: int = 0,
    ):
        if not genes or min(first, population) < 1 or generations < 0:
            raise ValueError("an evolution needs genes, and at least one point in a generation")
        self.genes, self._cost, self.window = dict(genes), cost, window
        self._counts, self._fresh = (first, *(population,) * generations), fresh
        self._random = random.Random(seed)
        self._costs: dict[Point, float] = {}
        self._listed = self._in_window() if self.size <= LISTED else None
        self.measured: dict[Point, float] = {}
        """Point to fitness, in the order in which they were measured."""

    @property
    def size(self) -> int:
        """Points of the whole space."""
        return prod(len(gene.values) for gene in self.genes.values())

    @property
    def possible(self) -> bool:
        """Whether some point is in the window; in a space that is too large to list, whether drawing finds one."""
        return bool(self._listed) if self._listed is not None else self._drawn(set()) is not None

    def values(self, point: Point) -> dict[str, Any]:
        """What a point says of every gene, by its name."""
        return {name: gene.values[place] for (name, gene), place in zip(self.genes.items(), point)}

    def search(self, fitness: Callable[[Mapping[str, Any]], float], begin: Iterable[Mapping[str, Any]] = ()) -> dict:
        """The values by name of the fittest point that was measured; of equals the first.

        Args:
            fitness: of the values by name, higher is better.
            begin: values that the first generation has before any drawn ones; those outside of the window are left out.
        """
        for one in begin:
            point = tuple(gene.values.index(one[name]) for name, gene in self.genes.items())
            if self._fits(point) and point not in self.measured:
                self.measured[point] = fitness(self.values(point))
        for generation, count in enumerate(self._counts):
            for point in self._generation(count, bool(generation)):
                self.measured[point] = fitness(self.values(point))
        if not self.measured:
            raise BudgetError(self.nothing())
        return self.values(max(self.measured, key=self.measured.__getitem__))

    def _generation(self, count: int, evolved: bool) -> Iterator[Point]:
        """Points that were not measured; parents are what was measured before it."""
        parents, taken = dict(self.measured), set(self.measured)
        for _ in range(count):
            mutate = evolved and parents and self._random.random() >= self._fresh
            point = self._mutated(parents, taken) if mutate else None
            point = self._drawn(taken) if point is None else point
            if point is None:
                return
            taken.add(point)
            yield point

    def _drawn(self, taken: set[Point]) -> Point | None:
        if self._listed is not None:
            left = [point for point in self._listed if point not in taken]
            return self._random.choice(left) if left else None
        for _ in range(DRAWS):
            point = tuple(self._random.randrange(len(gene.values)) for gene in self.genes.values())
            if point not in taken and self._fits(point):
                return point
        return None

    def _mutated(self, parents: Mapping[Point, float], taken: set[Point]) -> Point | None:
        """A new point near one that was measured; None where none is found."""
        for _ in range(DRAWS):
            point = self.mutation(self.roulette(parents))
            if point not in taken and self._fits(point):
                return point
        return None

    def roulette(self, parents: Mapping[Point, float]) -> Point:
        """One of the points, as likely as its fitness is above the worst; evenly where all are equal."""
        worst = min(parents.values())
        shares = [fitness - worst for fitness in parents.values()]
        return self._random.choices(list(parents), shares if sum(shares) > 0 else None)[0]

    def mutation(self, point: Point) -> Point:
        """A point near another; each gene moves by its chance, at most by its reach, and stays among its values."""
        return tuple(self._moved(place, gene) for place, gene in zip(point, self.genes.values()))

    def _moved(self, place: int, gene: Gene) -> int:
        if self._random.random() >= gene.chance:
            return place
        least, most = max(place - gene.reach, 0), min(place + gene.reach, len(gene.values) - 1)
        others = [one for one in range(least, most + 1) if one != place]
        return self._random.choice(others) if others else place

    def _fits(self, point: Point) -> bool:
        return self.window[0] <= self.cost_of(point) <= self.window[1]

    def cost_of(self, point: Point) -> float:
        """Computed once."""
        if point not in self._costs:
            self._costs[point] = self._cost(self.values(point))
        return self._costs[point]

    def _in_window(self) -> list[Point]:
        points = product(*(range(len(gene.values)) for gene in self.genes.values()))
        return [point for point in points if self._fits(point)]

    def nothing(self) -> str:
        """That no point is in the window, in words."""
        costs = self._costs.values()
        known = f"; they cost {min(costs):.6g} to {max(costs):.6g}" if self._listed is not None and costs else ""
        return f"no point of the search costs {self.window[0]:.6g} to {self.window[1]:.6g}{known}"
