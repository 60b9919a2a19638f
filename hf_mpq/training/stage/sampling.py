"""Which examples a step sees, as a function of seed and step."""

import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers import DataCollatorForLanguageModeling, DataCollatorForPermutationLanguageModeling
from transformers.trainer_pt_utils import get_length_grouped_indices

from ...search.strategies.seeding import seeded


@dataclass(frozen=True)
class Part:
    """One part of an epoch.

    Attributes:
        indices: of the examples that it draws from.
        count: how many of them an epoch takes; those that it takes change from epoch to epoch. Where there are fewer,
            its first ones come again at the end.
    """

    indices: Sequence[int]
    count: int


class EpochSampler(Sampler[int]):
    """Each epoch goes through its parts in turn, each in an order that depends on seed, epoch and part alone.

    Args:
        parts: of the epoch.
        seed: of the order.
        lengths: of all examples, to bring like ones together; None mixes freely.
        batch: examples of one optimizer step; those of like length come together in it.
    """

    def __init__(self, parts: Sequence[Part], seed: int, lengths: Sequence[int] | None = None, batch: int = 1):
        self.parts, self.seed, self.lengths, self.batch = tuple(parts), seed, lengths, batch
        self.epoch = 0

    def __len__(self) -> int:
        return sum(part.count for part in self.parts)

    def __iter__(self) -> Iterator[int]:
        for place, part in enumerate(self.parts):
            generator = seeded(self.seed, self.epoch, place)
            order = torch.randperm(len(part.indices), generator=generator).tolist()
            taken = [part.indices[position] for position in islice(cycle(order), part.count)]
            if self.lengths is not None:
                lengths = [self.lengths[index] for index in taken]
                taken = [taken[k] for k in get_length_grouped_indices(lengths, self.batch, generator=generator)]
            yield from taken

    def set_epoch(self, epoch: int) -> None:
        """The order of that epoch from the next iteration on."""
        self.epoch = epoch


@dataclass
class SearchBatches:
    """Batches of the search slice, each a function of (seed, step, micro-batch, process).

    Args:
        indices: of the slice.
        seed: of the order.
        batch: examples of one micro-batch.
        count: micro-batches of one optimizer step over all processes.
    """

    indices: Sequence[int]
    seed: int
    batch: int
    count: int
    _order: tuple[int, list[int]] = field(default=(-1, []), init=False, repr=False)

    def at(self, step: int, place: int) -> list[int]:
        """Indices of the micro-batch at `place` among those of a step; the slice starts anew when it is used up."""
        first = (step * self.count + place) * self.batch
        return [self._example(position) for position in range(first, first + self.batch)]

    def _example(self, position: int) -> int:
        epoch, place = divmod(position, len(self.indices))
        if self._order[0] != epoch:
            self._order = epoch, torch.randperm(len(self.indices), generator=seeded(self.seed, epoch, 1)).tolist()
        return self.indices[self._order[1][place]]


class SeededCollator:
    """A collator whose random choices (which tokens are masked) depend on seed, epoch and examples alone.

    The examples are those of a whole micro-batch: cut into other micro-batches, by another per-device batch size,
    accumulation or number of processes, the same step masks other tokens. What is not random is the same.

    Args:
        collate: makes a batch of a list of rows.
        seed: of its choices.
    """

    def __init__(self, collate: Callable[[list], Any], seed: int):
        self.collate, self.seed, self.epoch = collate, seed, 0

    def __call__(self, rows: list) -> Any:
        content = zlib.crc32(repr([row.get("input_ids") for row in rows if isinstance(row, Mapping)]).encode())
        before = random.getstate(), np.random.get_state()
        try:
            with torch.random.fork_rng(devices=[]):
                own = int(np.random.SeedSequence((self.seed, self.epoch, content)).generate_state(1)[0])
                random.seed(own), np.random.seed(own), torch.default_generator.manual_seed(own)
                return self.collate(rows)
        finally:
            random.setstate(before[0]), np.random.set_state(before[1])


def masks_at_random(collator: Any) -> bool:
    """Whether a collator is one of transformers' that choose the tokens that are predicted."""
    if isinstance(collator, DataCollatorForLanguageModeling):
        return collator.mlm
    return isinstance(collator, DataCollatorForPermutationLanguageModeling)


def slices(count: int, size: int, seed: int) -> tuple[list[int], list[int]]:
    """Random split of `count` examples: the rest, and a slice of `size`."""
    order = torch.randperm(count, generator=seeded(seed, 0, 2)).tolist()
    return sorted(order[size:]), sorted(order[:size])
