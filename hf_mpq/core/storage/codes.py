"""Codes, scales and the map: what sub-groups at several precisions take."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log2

from ..layout import SubgroupLayout
from .sizes import ITEM_BYTES, plane_bytes


@dataclass(frozen=True)
class CodeStorage:
    """Bit planes of the codes of each precision, the floats of its sub-groups, and which sub-group has which.

    Attributes:
        layout, groups, lines, floats, length, scale_dtype: as of `MatrixStorage`.
        kept: precision to number of stored codes, where a mask drops some; empty without a mask.
    """

    layout: SubgroupLayout
    groups: Mapping[int, int]
    lines: Mapping[int, int]
    floats: Mapping[int, int]
    length: int
    kept: Mapping[int, int]
    scale_dtype: str

    @property
    def precisions(self) -> tuple[int, ...]:
        """Values of the map in order, 0 included when some sub-group is pruned."""
        pruned = sum(self.groups.values()) < self.layout.count
        return ((0,) if pruned else ()) + tuple(self.groups)

    @property
    def map_bits(self) -> int:
        """Bits that the map spends on each sub-group."""
        return ceil(log2(len(self.precisions))) if self.precisions else 0

    def code_bytes(self, bits: int) -> int:
        """Bytes of the codes of one precision."""
        if self.kept:
            return plane_bytes(1, self.kept[bits], bits)
        return plane_bytes(self.lines[bits], self.length, bits)

    @property
    def code_bits(self) -> int:
        """Bits of all stored codes, without padding: of the weights that a mask keeps, and of live columns."""
        codes = self.kept or {bits: lines * self.length for bits, lines in self.lines.items()}
        return sum(bits * count for bits, count in codes.items())

    @property
    def scale_count(self) -> int:
        """Stored floats of all sub-groups."""
        return sum(count * self.floats[bits] for bits, count in self.groups.items())

    def buffers(self) -> dict[str, int]:
        """Name to bytes of each stored tensor."""
        return {
            "codes": sum(self.code_bytes(bits) for bits in self.groups),
            "scales": self.scale_count * ITEM_BYTES[self.scale_dtype],
            "map": plane_bytes(1, self.layout.count, self.map_bits),
        }
