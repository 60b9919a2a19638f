"""Which weights have a code at all."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..parts import Part
from .sizes import plane_bytes

FLAGS = Part("flags")
"""One bit a weight, which every mask can be stored as; the only encoding of format version 1."""


@dataclass(frozen=True)
class MaskStorage:
    """How a mask is stored. One of each precision, over its lines, comes after the other.

    Attributes:
        kept: precision to number of weights that the mask keeps, all of which have a code.
        sizes: precision to bytes of its mask.
        encoding: registered mask encoding, the same for all precisions.
    """

    kept: Mapping[int, int]
    sizes: Mapping[int, int]
    encoding: Part = field(default=FLAGS)

    @classmethod
    def flags(cls, kept: Mapping[int, int], lines: Mapping[int, int], length: int) -> "MaskStorage":
        """One flag for each weight of `lines` of `length`."""
        return cls(kept, {bits: plane_bytes(1, lines[bits] * length, 1) for bits in kept})

    def cut(self, bits: int) -> "MaskStorage":
        """The same mask where the one precision has another name."""
        kept, sizes = ({bits: sum(counts.values())} if counts else {} for counts in (self.kept, self.sizes))
        return MaskStorage(kept, sizes, self.encoding)

    def buffers(self) -> dict[str, int]:
        """Name to bytes of each stored tensor."""
        return {"mask": sum(self.sizes.values())}

    def to_dict(self) -> dict:
        """JSON-able form of what all precisions share; flags are not told."""
        return {} if self.encoding == FLAGS else {"mask_encoding": self.encoding.written}

    def numbers(self, bits: int) -> list[int]:
        """What the table of precisions has: how many are kept, and the bytes, which for flags follow from the lines."""
        return [self.kept[bits]] if self.encoding == FLAGS else [self.kept[bits], self.sizes[bits]]

    @classmethod
    def from_dict(
        cls, content: Mapping, table: Mapping[int, list[int]], lines: Mapping[int, int], length: int
    ) -> "MaskStorage | None":
        """The inverse of `to_dict` and `numbers`; None where no precision has such numbers."""
        kept = {bits: numbers[0] for bits, numbers in table.items() if numbers}
        encoding = Part.of(content.get("mask_encoding", FLAGS), what="mask_encoding")
        if not kept:
            return None
        if encoding == FLAGS:
            return cls.flags(kept, lines, length)
        return cls(kept, {bits: numbers[1] for bits, numbers in table.items()}, encoding)
