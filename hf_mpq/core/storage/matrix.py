"""One packed matrix: its codes, its mask, what its channels have, and its low-rank factors."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..layout import SubgroupLayout
from .channels import ChannelStorage
from .codes import CodeStorage
from .low_rank import LowRankStorage
from .mask import MaskStorage


@dataclass(frozen=True)
class MatrixStorage:
    """Everything that the shapes of one packed matrix depend on; goes into `config.json`.

    Attributes:
        layout: its sub-groups.
        groups: precision to number of sub-groups, without 0.
        lines: precision to number of rows (columns for axis 1) in them.
        floats: precision to stored floats per sub-group.
        encoding: registered name of how codes become values.
        length: stored weights in one line; less than `layout.line_length` when input columns are dead.
        mask: how it is stored which weights have a code; None where all do.
        bias: number of stored bias entries; None without a bias.
        nested: precisions that the codes were made for; empty for a plain matrix. The one precision in `groups` is the
            number of their planes that are stored: fewer than the highest where planes were left out.
        scale_dtype, float_dtype: types of scales, and of the bias and of what is stored for input channels.
        affine: what is stored for each live input channel: `"scale"`, `"shift"`, both or nothing.
        rank: of the low-rank factors, which have the kept rows and the live input channels; 0 without.
    """

    layout: SubgroupLayout
    groups: Mapping[int, int]
    lines: Mapping[int, int]
    floats: Mapping[int, int]
    encoding: str
    length: int
    mask: MaskStorage | None = None
    bias: int | None = None
    nested: tuple[int, ...] = ()
    scale_dtype: str = "float16"
    float_dtype: str = "float16"
    affine: tuple[str, ...] = ()
    rank: int = 0

    @classmethod
    def of(cls, layout: SubgroupLayout, bits: Sequence[int], floats: Mapping[int, int], **others) -> "MatrixStorage":
        """Count sub-groups and lines at each precision of `bits` `(groups,)`."""
        counts, used = Counter(zip(bits, layout.sizes)), sorted(set(bits) - {0})
        groups = {b: sum(count for (other, _), count in counts.items() if other == b) for b in used}
        lines = {b: sum(count * size for (other, size), count in counts.items() if other == b) for b in used}
        others.setdefault("length", layout.line_length)
        return cls(layout, groups, lines, {b: floats[b] for b in used}, **others)

    @property
    def kept(self) -> Mapping[int, int]:
        """Precision to number of stored codes, where a mask drops some; empty without a mask."""
        return {} if self.mask is None else self.mask.kept

    @property
    def codes(self) -> CodeStorage:
        """Codes, scales and the map."""
        return CodeStorage(self.layout, self.groups, self.lines, self.floats, self.length, self.kept, self.scale_dtype)

    @property
    def of_channels(self) -> ChannelStorage:
        """What is stored for each row and input channel."""
        return ChannelStorage(self.layout, self.length, self.bias, self.affine, self.float_dtype)

    @property
    def low_rank(self) -> LowRankStorage:
        """The low-rank factors."""
        return LowRankStorage(self.rank, self.kept_rows, self.channels, self.float_dtype)

    @property
    def precisions(self) -> tuple[int, ...]:
        """Values of the map in order, 0 included when some sub-group is pruned."""
        return self.codes.precisions

    @property
    def map_bits(self) -> int:
        """Bits that the map spends on each sub-group."""
        return self.codes.map_bits

    def code_bytes(self, bits: int) -> int:
        """Bytes of the codes of one precision."""
        return self.codes.code_bytes(bits)

    @property
    def code_bits(self) -> int:
        """Bits of all stored codes, without padding: of the weights that a mask keeps, and of live columns."""
        return self.codes.code_bits

    @property
    def scale_count(self) -> int:
        """Stored floats of all sub-groups."""
        return self.codes.scale_count

    @property
    def channels(self) -> int:
        """Input channels that are stored."""
        return self.of_channels.count

    @property
    def kept_rows(self) -> int:
        """Rows that are not pruned."""
        return sum(self.lines.values()) if self.layout.axis == 0 else self.layout.shape[0]

    @property
    def served(self) -> tuple[int, ...]:
        """Nested precisions whose planes are stored, ascending; empty for a plain matrix."""
        return tuple(bits for bits in self.nested if bits <= max(self.groups, default=0))

    def cut(self, bits: int) -> "MatrixStorage":
        """Of nested codes, only the planes and the scales that serve up to `bits`, one of `served`."""
        renamed = lambda counts: dict.fromkeys((bits,), sum(counts.values())) if counts else {}  # noqa: E731
        floats = {bits: self.served.index(bits) + 1}
        mask = self.mask and self.mask.cut(bits)
        return replace(self, groups=renamed(self.groups), lines=renamed(self.lines), floats=floats, mask=mask)

    def buffers(self) -> dict[str, int]:
        """Name to bytes of each stored tensor; empty ones are left out."""
        sizes = self.codes.buffers() | ({} if self.mask is None else self.mask.buffers())
        sizes |= self.of_channels.buffers() | self.low_rank.buffers()
        return {name: size for name, size in sizes.items() if size}

    @property
    def total_bytes(self) -> int:
        """Bytes of all stored tensors of this matrix."""
        return sum(self.buffers().values())

    def to_dict(self) -> dict:
        """JSON-able form; fields at their defaults are left out."""
        layout = {"shape": list(self.layout.shape), "groups": self.layout.groups}
        if self.layout.axis:
            layout["axis"] = self.layout.axis
        if self.layout.shards > 1:
            layout["shards"] = self.layout.shards
        content = {"layout": layout, "encoding": self.encoding, "length": self.length, "bias": self.bias}
        content["precisions"] = {
            str(bits): [self.groups[bits], self.lines[bits], self.floats[bits], *self._masked(bits)]
            for bits in self.groups
        }
        optional = {
            "nested": list(self.nested),
            "scale_dtype": self.scale_dtype,
            "float_dtype": self.float_dtype,
            "affine": list(self.affine),
            "rank": self.rank,
        }
        content |= {} if self.mask is None else self.mask.to_dict()
        return content | {key: value for key, value in optional.items() if value not in ([], "float16", 0)}

    def _masked(self, bits: int) -> list[int]:
        return [] if self.mask is None else self.mask.numbers(bits)

    @classmethod
    def from_dict(cls, content: Mapping) -> "MatrixStorage":
        """The inverse of `to_dict`."""
        layout = dict(content["layout"])
        layout["shape"] = tuple(layout["shape"])
        table = {int(bits): numbers for bits, numbers in content["precisions"].items()}
        groups, lines, floats = ({bits: numbers[i] for bits, numbers in table.items()} for i in range(3))
        masks = {bits: numbers[3:] for bits, numbers in table.items()}
        rest: dict[str, Any] = {key: content[key] for key in ("scale_dtype", "float_dtype") if key in content}
        rest |= {"affine": tuple(content.get("affine", ())), "rank": content.get("rank", 0)}
        return cls(
            SubgroupLayout(**layout),
            groups,
            lines,
            floats,
            content["encoding"],
            content["length"],
            MaskStorage.from_dict(content, masks, lines, content["length"]),
            content["bias"],
            tuple(content.get("nested", ())),
            **rest,
        )

    def with_changes(self, **changes) -> "MatrixStorage":
        """A copy with some fields replaced."""
        return replace(self, **changes)
