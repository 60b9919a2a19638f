"""One scheme, bits and an N:M pattern, for all matrices that are tied: filtered by cost, ranked untrained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...core import DENSE, Assignment, BudgetError, MatrixAssignment, Pattern, PrecisionSpace, bars, say
from ...cost import Limits
from .base import ALLOCATORS, Allocator, Evaluate, Scores
from .members import input_bits
from .start import spending
from .unmet import unmet, unmet_together

Array: TypeAlias = NDArray[np.float64]
Scheme: TypeAlias = tuple[int, Pattern]
"""Bits, and what is kept."""
MOST, MOST_EXACT = 2_000_000, 20_000
"""Combinations that are looked at, at most: where costs are sums over matrices, and where each is counted by itself."""


@dataclass(frozen=True)
class _Block:
    """Matrices that take one scheme together."""

    names: tuple[str, ...]
    schemes: tuple[Scheme, ...]


@ALLOCATORS.register("schemes")
@dataclass(frozen=True)
class Schemes(Allocator):
    """NxMiFormer's search of heterogeneous configurations (Holmes et al., 2022; rebuilt from its abstract and the
    authors' library): every tie takes bits and a pattern, all combinations within the limits are ranked by the damage
    that they do untrained, and the best are handed on to be trained.

    A matrix that is not tied is one by itself: tie matrices by their place in a layer, as `method="nxmiformer"` does,
    or there are too many. Inputs keep the highest of their candidates, or follow their matrix. `scores` are not read.

    Where more combinations fit than are measured, those with the least sum of what each scheme does alone are; the
    paper measures all, with the task's own metric.

    Args:
        measured: combinations that are measured; None for all that fit.
        share: the most that the encoder's matrices may be of float32 by the paper's count, beside the limits; it leaves
            out scales, biases and maps.
        index_bits: of each kept weight of a pattern in that count; 0 is what the paper's compression of 93 % goes with,
            2 what its library counts.

    Raises:
        ValueError: for a `measured` below 1, a share that is not above 0, or negative bits.
    """

    needs_scores = False
    reads_scores = False
    needs_evaluate = True
    chooses_patterns = True

    measured: int | None = 64
    share: float | None = None
    index_bits: int = 0

    def __post_init__(self) -> None:
        if self.measured is not None and self.measured < 1:
            raise ValueError(f"measured is a number of combinations, at least 1, or None for all; got {self.measured}")
        if (self.share is not None and self.share <= 0) or self.index_bits < 0:
            raise ValueError(f"share is above 0 and index_bits from 0; got {self.share} and {self.index_bits}")

    def choose(
        self,
        space: PrecisionSpace,
        limits: Limits,
        scores: Scores | None = None,
        evaluate: Evaluate | None = None,
        progress: bool = False,
    ) -> Assignment:
        return self.finalists(space, limits, 1, scores, evaluate, progress)[0]

    def finalists(
        self,
        space: PrecisionSpace,
        limits: Limits,
        count: int,
        scores: Scores | None = None,
        evaluate: Evaluate | None = None,
        progress: bool = False,
    ) -> list[Assignment]:
        if evaluate is None:
            raise ValueError(
                "the schemes allocator measures assignments: give evaluate, a function from an assignment to its damage"
            )
        search = _Search(space, limits, _blocks(space))
        within = search.within(self.share, self.index_bits)
        with bars(disable=not progress) as shown:
            bar = shown.add_task("schemes", total=None)

            def damage(choice: NDArray[np.int64]) -> float:
                shown.advance(bar)
                return evaluate(search.assignment(choice))

            measured = _promising(search, within, self.measured, damage)
            found = sorted((damage(choice), number) for number, choice in enumerate(measured))
        best = [search.assignment(measured[number]) for _, number in found[: max(count, 1)]]
        if progress:
            say(f"schemes: {len(within):,} of {len(search.choices):,} fit; {self._told(search, best[0])}")
        return best

    def evaluation_count(self, space: PrecisionSpace) -> int:
        blocks = _blocks(space)
        every = prod(len(block.schemes) for block in blocks)
        if self.measured is None or every <= self.measured:
            return every
        return 1 + sum(len(block.schemes) - 1 for block in blocks) + self.measured

    def _told(self, search: "_Search", assignment: Assignment) -> str:
        """What the best takes, by the limits and by the paper's count."""
        spent = [spending(one.cost.of(assignment), one.most, one.cost.unit) for one in search.limits]
        share = paper_share(search.space, assignment, self.index_bits)
        return f"the best takes {' and '.join(spent)}, {share:.4f} of float32 by the paper's count"


class _Search:
    """All combinations of one scheme for each block, `(combinations, blocks)` positions, with what they cost."""

    def __init__(self, space: PrecisionSpace, limits: Limits, blocks: Sequence[_Block]):
        self.space, self.limits, self.blocks = space, limits, blocks
        sizes = [len(block.schemes) for block in blocks]
        if prod(sizes) > (MOST if self._adds_up else MOST_EXACT):
            raise ValueError(
                f"{len(blocks)} ties with up to {max(sizes)} schemes each have too many combinations: tie more "
                r"matrices by a rule, such as rules={r'\.\d+\.(.+)$': {'tie': r'\1'}}, or give fewer bits, "
                "no 0 among them, or fewer patterns"
            )
        self.choices = np.array(list(product(*map(range, sizes))), np.int64).reshape(prod(sizes), len(sizes))

    def within(self, share: float | None, index_bits: int) -> NDArray[np.int64]:
        """Those that keep all limits, and the share by the paper's count; raises BudgetError when none does."""
        costs = [self._costs(limit.cost.of) for limit in self.limits]
        kept = np.ones(len(self.choices), bool)
        for limit, cost in zip(self.limits, costs):
            fits = cost <= limit.most * (1 + 1e-12)
            if not fits.any():
                raise unmet(limit, float(cost.min()))
            kept &= fits
        if not kept.any():
            over = np.max([cost / limit.most for limit, cost in zip(self.limits, costs)], axis=0)
            raise unmet_together(self.limits, np.array([cost[over.argmin()] for cost in costs]))
        if share is not None:
            kept &= self._shares(index_bits) <= share * (1 + 1e-12)
        if not kept.any():
            raise BudgetError(
                f"no combination of schemes within the budget takes {share} of float32 by the paper's count"
            )
        return self.choices[kept]

    def assignment(self, choice: NDArray[np.int64]) -> Assignment:
        """The whole assignment that has a combination."""
        schemes = {
            name: block.schemes[position]
            for block, position in zip(self.blocks, choice.tolist())
            for name in block.names
        }
        matrices = {name: _matrix(self.space, name, schemes.get(name)) for name in self.space.weights}
        bits = {name: np.array(one.bits, np.uint8) for name, one in matrices.items()}
        return Assignment(matrices, input_bits(self.space.weights, bits))

    @property
    def best(self) -> NDArray[np.int64]:
        """Every block at its most bits, and densest."""
        return np.array([len(block.schemes) - 1 for block in self.blocks], np.int64)

    def alone(self, number: int, position: int) -> NDArray[np.int64]:
        """`best`, but for one block at another scheme."""
        choice = self.best
        choice[number] = position
        return choice

    @property
    def _adds_up(self) -> bool:
        """Whether costs are sums over matrices: nothing is pruned, and no input follows its matrix."""
        pruned = any(bits == 0 for block in self.blocks for bits, _ in block.schemes)
        inputs = (self.space.weights[name].activation for block in self.blocks for name in block.names)
        return not pruned and not any(one is not None and one.follows for one in inputs)

    def _costs(self, of: Callable[[Assignment], float]) -> Array:
        """The exact cost of every combination, `(combinations,)`."""
        if not self._adds_up:
            return np.array([of(self.assignment(choice)) for choice in self.choices])
        base = of(self.assignment(self.best))
        tables = [
            np.array([of(self.assignment(self.alone(number, k))) - base for k in range(len(block.schemes))])
            for number, block in enumerate(self.blocks)
        ]
        return base + self._summed(tables)

    def _summed(self, tables: Sequence[Array]) -> Array:
        return sum((table[self.choices[:, number]] for number, table in enumerate(tables)), np.zeros(len(self.choices)))

    def _shares(self, index_bits: int) -> Array:
        sizes = [sum(_encoder_weights(self.space, name) for name in block.names) for block in self.blocks]
        tables = [np.array([scheme_share(*scheme, index_bits) for scheme in block.schemes]) for block in self.blocks]
        return self._summed([size * table for size, table in zip(sizes, tables)]) / max(sum(sizes), 1)


def _promising(search: _Search, within, measured: int | None, damage) -> list[NDArray[np.int64]]:
    """What is measured: all, or those with the least sum of what each scheme does alone."""
    if measured is None or len(within) <= measured:
        return list(within)
    base = damage(search.best)
    tables = [
        np.array([0.0 if k == top else damage(search.alone(number, k)) - base for k in range(top + 1)])
        for number, top in enumerate(search.best.tolist())
    ]
    sums = sum((table[within[:, number]] for number, table in enumerate(tables)), np.zeros(len(within)))
    return list(within[np.argsort(sums, kind="stable")[:measured]])


def _blocks(space: PrecisionSpace) -> list[_Block]:
    """Ties, and matrices by themselves, whose bits or pattern are open; schemes from the fewest bits to the most."""
    names: dict[tuple[str, str], list[str]] = {}
    for name, spec in space.weights.items():
        if (spec.bits is None and not spec.nested) or spec.pattern_is_open:
            names.setdefault(("matrix", name) if spec.tie is None else ("tie", spec.tie), []).append(name)
    blocks = [_Block(tuple(several), _schemes(space, several[0])) for several in names.values()]
    for block in blocks:
        if any(_schemes(space, name) != block.schemes for name in block.names):
            raise ValueError(f"tied matrices need equal candidates and patterns: {', '.join(block.names)}")
    return blocks


def _schemes(space: PrecisionSpace, name: str) -> tuple[Scheme, ...]:
    spec = space.weights[name]
    patterns = spec.patterns if spec.pattern_is_open else (spec.keep_of or DENSE,)
    candidates = spec.candidates if spec.bits is None else (-1,)  # which stay as they are
    return tuple((bits, pattern) for bits in candidates for pattern in reversed(patterns))


def _matrix(space: PrecisionSpace, name: str, scheme: Scheme | None) -> MatrixAssignment:
    spec = space.weights[name]
    fixed = spec.bits or ((spec.nested or spec.candidates)[-1],) * spec.layout.count
    found = MatrixAssignment(fixed, keep_of=spec.keep_of, nested=spec.nested)
    if scheme is None:
        return found
    bits, pattern = scheme
    return replace(
        found,
        bits=fixed if bits < 0 else (bits,) * spec.layout.count,
        keep_of=pattern if spec.pattern_is_open else spec.keep_of,
    )


def scheme_share(bits: float, pattern: Pattern, index_bits: int = 0) -> float:
    """Bits of a weight of float32's 32 by the paper's count: a pattern's kept weights, each with an index."""
    kept, block = pattern
    return bits / 32 if pattern == DENSE else kept * (bits + index_bits) / (32 * block)


def paper_share(space: PrecisionSpace, assignment: Assignment, index_bits: int = 0) -> float:
    """What an assignment takes of the float32 bits of all encoder matrices by the paper's count: without scales, biases
    and maps, and with an index only where it is asked for."""
    taken, every = 0.0, 0
    for name, one in assignment.matrices.items():
        weights = _encoder_weights(space, name)
        each = [scheme_share(bits, one.keep_of or DENSE, index_bits) for bits in one.bits]
        parts: Mapping[int, int] | Sequence[int] = space.weights[name].layout.numel if weights else ()
        taken += sum(share * count for share, count in zip(each, parts))
        every += weights
    return taken / max(every, 1)


def _encoder_weights(space: PrecisionSpace, name: str) -> int:
    spec = space.weights[name]
    return sum(spec.layout.numel) if spec.role == "encoder" else 0
