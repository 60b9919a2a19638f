"""Masks on disk: a flag for each weight, the pattern of each block, or the gaps between the weights that are kept."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import combinations
from math import ceil, comb, log2

import torch
from torch import Tensor

from ..core import MaskStorage, Part, Registry
from ..core.storage import plane_bytes
from .planes import pack_flags, pack_planes, unpack_flags, unpack_planes

MASK_ENCODINGS: Registry[type["MaskEncoding"]] = Registry("mask encoding")


class MaskEncoding(ABC):
    """Turns the mask of the lines at one precision into bytes, and back; `docs/format.md` has the layout of each."""

    @abstractmethod
    def rate(self, share: float) -> float:
        """Bits a weight, of a mask that keeps this share of the weights wherever they are."""

    @abstractmethod
    def size(self, lines: int, length: int, kept: int) -> int:
        """Bytes of a mask of `lines` lines of `length` weights that keeps so many of them wherever they are: exactly,
        or where that depends on the places, as many as are expected."""

    @abstractmethod
    def possible(self, lines: int, length: int, kept: int, size: int) -> bool:
        """Whether some mask like this has exactly `size` bytes."""

    @abstractmethod
    def encode(self, keep: Tensor) -> Tensor | None:
        """Bytes `(size,)` uint8 of a mask `(lines, length)` bool; None for a mask that cannot be stored like this."""

    @abstractmethod
    def decode(self, octets: Tensor, lines: int, length: int) -> Tensor:
        """The mask `(lines, length)` bool of some bytes `(size,)` uint8; of damaged ones, any mask."""


@MASK_ENCODINGS.register("flags")
class Flags(MaskEncoding):
    """One bit a weight."""

    def rate(self, share: float) -> float:
        return 1.0

    def size(self, lines: int, length: int, kept: int) -> int:
        return plane_bytes(1, lines * length, 1)

    def possible(self, lines: int, length: int, kept: int, size: int) -> bool:
        return size == self.size(lines, length, kept)

    def encode(self, keep: Tensor) -> Tensor:
        return pack_flags(keep.flatten())

    def decode(self, octets: Tensor, lines: int, length: int) -> Tensor:
        return unpack_flags(octets, lines * length).view(lines, length)


@MASK_ENCODINGS.register("n:m")
class Blocks(MaskEncoding):
    """The number of the pattern of each block, in `ceil(log2(C(block, kept)))` bits: 0.75 bits a weight at 2:4, 0.5 at
    1:4. Only for lines of whole blocks that keep exactly so many each.

    Args:
        kept, block: so many of every so many weights of a line.

    Raises:
        ValueError: there are no such blocks, or more than 65,536 patterns.
    """

    def __init__(self, kept: int = 2, block: int = 4):
        if not 0 < kept <= block <= 64 or comb(block, kept) > 2**16:
            raise ValueError(f"blocks that keep {kept} of {block} have no numbers of at most 16 bits: use 'flags'")
        self.kept, self.block, self.bits = kept, block, ceil(log2(comb(block, kept)))

    @classmethod
    def fits(cls, kept: int, block: int) -> bool:
        """Whether the patterns of such blocks have numbers."""
        return 0 < kept <= block <= 64 and comb(block, kept) <= 2**16

    def rate(self, share: float) -> float:
        return self.bits / self.block

    def size(self, lines: int, length: int, kept: int) -> int:
        return plane_bytes(1, lines * (length // self.block), self.bits)

    def possible(self, lines: int, length: int, kept: int, size: int) -> bool:
        whole = length % self.block == 0 and kept * self.block == lines * length * self.kept
        return whole and size == self.size(lines, length, kept)

    def encode(self, keep: Tensor) -> Tensor | None:
        if keep.shape[1] % self.block:
            return None
        blocks = keep.reshape(-1, self.block)
        if bool((blocks.sum(1) != self.kept).any()):
            return None
        patterns = _patterns(self.kept, self.block, keep.device)
        index = torch.searchsorted(_read(patterns), _read(blocks)).unsqueeze(0)
        high = pack_planes((index >> 8).to(torch.uint8), max(self.bits - 8, 0))
        return torch.cat([high.flatten(), pack_planes((index & 255).to(torch.uint8), min(self.bits, 8)).flatten()])

    def decode(self, octets: Tensor, lines: int, length: int) -> Tensor:
        count, patterns = lines * (length // self.block), _patterns(self.kept, self.block, octets.device)
        planes = octets.view(self.bits, 1, ceil(count / 8))
        high, low = planes.split([max(self.bits - 8, 0), min(self.bits, 8)])
        index = unpack_planes(low, count)[0].long() + (unpack_planes(high, count)[0].long() << 8)
        return patterns[index.clamp(max=len(patterns) - 1)].view(lines, length)


@MASK_ENCODINGS.register("runs")
class Runs(MaskEncoding):
    """The number of dropped weights before each kept one, over all lines, in 4 bits; 15 stands for 15 dropped ones with
    no kept one after them. At 10 % density 0.50 bits a weight, at 25 % a little more than one."""

    def rate(self, share: float) -> float:
        return 0.0 if share <= 0 else 4 * share * (1 + _escapes(share))

    def size(self, lines: int, length: int, kept: int) -> int:
        every = lines * length
        return ceil(kept * (1 + _escapes(kept / every)) / 2) if kept else 0

    def possible(self, lines: int, length: int, kept: int, size: int) -> bool:
        return ceil(kept / 2) <= size <= ceil((kept + (lines * length - kept) // LONGEST) / 2)

    def encode(self, keep: Tensor) -> Tensor:
        places = keep.flatten().nonzero().flatten()
        gaps = places.diff(prepend=places.new_full((1,), -1)) - 1
        ends = (gaps // LONGEST + 1).cumsum(0)  # nibbles up to and with that of each kept weight
        count = int(ends[-1]) if len(ends) else 0
        nibbles = torch.full((count + count % 2,), LONGEST, dtype=torch.uint8, device=keep.device)
        nibbles[ends - 1] = (gaps % LONGEST).to(torch.uint8)
        return nibbles[::2] << 4 | nibbles[1::2]

    def decode(self, octets: Tensor, lines: int, length: int) -> Tensor:
        nibbles = torch.stack([octets >> 4, octets & 15], dim=1).flatten()
        keeps = nibbles < LONGEST
        ends = (nibbles + keeps).long().cumsum(0)  # weights up to and with the last one that each nibble stands for
        every = lines * length
        keep = torch.zeros(every + 1, dtype=torch.bool, device=octets.device)
        keep[(ends - 1).clamp(max=every)] = keeps
        return keep[:every].view(lines, length)


LONGEST = 15
"""Dropped weights that one nibble of a run stands for."""


def stored_mask(keeps: Mapping[int, Tensor], encodings: Iterable[Part]) -> MaskStorage | None:
    """The smallest of some encodings for the masks of all precisions, of equal ones the first; None without a mask, and
    for one that keeps every weight.

    Args:
        keeps: precision to `(lines, length)` bool.
        encodings: to choose from; those that cannot store these masks are passed over.
    """
    found = []
    for part in encodings if any(not bool(keep.all()) for keep in keeps.values()) else ():
        octets = [mask_encoding(part).encode(keep) for keep in keeps.values()]
        if all(one is not None for one in octets):
            sizes = {bits: len(one) for bits, one in zip(keeps, octets) if one is not None}
            found.append(MaskStorage({bits: int(keep.sum()) for bits, keep in keeps.items()}, sizes, part))
    return min(found, key=lambda one: sum(one.sizes.values()), default=None)


def mask_encoding(part: Part) -> MaskEncoding:
    """The encoding that a part names; raises ValueError where there is none, or it has no such options."""
    return MASK_ENCODINGS.make(part.name, options=part.options)


def _escapes(share: float) -> float:
    """Expected escapes before each kept weight, where every weight is kept with the same probability."""
    longer = (1 - share) ** LONGEST
    return longer / (1 - longer)


@lru_cache(maxsize=64)
def _patterns(kept: int, block: int, device: torch.device) -> Tensor:
    """Every pattern of a block, ascending as numbers whose highest bit is the first weight, `(patterns, block)`."""
    with torch.inference_mode(False):
        places = torch.tensor([*combinations(range(block), kept)], device=device).flip(0)
        return torch.zeros(len(places), block, dtype=torch.bool, device=device).scatter(1, places, True)


def _read(patterns: Tensor) -> Tensor:
    """Patterns `(n, block)` as numbers whose highest bit is the first weight, `(n,)` int64."""
    places = torch.arange(patterns.shape[1] - 1, -1, -1, device=patterns.device)
    return (patterns.long() << places).sum(1)
