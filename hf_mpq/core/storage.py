"""How many bytes one packed matrix takes, part by part: the one rule for the packer, the loader and the cost model."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, log2
from typing import Any

from .layout import SubgroupLayout

ITEM_BYTES = {"float16": 2, "float32": 4}


def plane_bytes(lines: int, length: int, bits: int) -> int:
    """Bytes of `bits` bit planes over `lines` lines of `length` codes, each line padded to a whole byte."""
    return bits * lines * ceil(length / 8)


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
        kept: precision to number of stored codes, where a mask drops some; empty without a mask.
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
    kept: Mapping[int, int] = field(default_factory=dict)
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
    def precisions(self) -> tuple[int, ...]:
        """Values of the map in order, 0 included when some sub-group is pruned."""
        pruned = sum(self.groups.values()) < self.layout.count
        return ((0,) if pruned else ()) + tuple(self.groups)

    @property
    def served(self) -> tuple[int, ...]:
        """Nested precisions whose planes are stored, ascending; empty for a plain matrix."""
        return tuple(bits for bits in self.nested if bits <= max(self.groups, default=0))

    def cut(self, bits: int) -> "MatrixStorage":
        """Of nested codes, only the planes and the scales that serve up to `bits`, one of `served`."""
        renamed = lambda counts: dict.fromkeys((bits,), sum(counts.values())) if counts else {}  # noqa: E731
        floats = {bits: self.served.index(bits) + 1}
        return replace(
            self, groups=renamed(self.groups), lines=renamed(self.lines), floats=floats, kept=renamed(self.kept)
        )

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

    @property
    def channels(self) -> int:
        """Input channels that are stored."""
        return self.length if self.layout.axis == 0 else self.layout.shape[1]

    @property
    def kept_rows(self) -> int:
        """Rows that are not pruned."""
        return sum(self.lines.values()) if self.layout.axis == 0 else self.layout.shape[0]

    def buffers(self) -> dict[str, int]:
        """Name to bytes of each stored tensor; empty ones are left out."""
        rows = self.layout.shape[0]
        dead = self.length < self.layout.line_length
        sizes = {
            "codes": sum(self.code_bytes(bits) for bits in self.groups),
            "scales": self.scale_count * ITEM_BYTES[self.scale_dtype],
            "map": plane_bytes(1, self.layout.count, self.map_bits),
            "mask": sum(plane_bytes(1, lines * self.length, 1) for lines in self.lines.values()) if self.kept else 0,
            "live_columns": ceil(self.layout.line_length / 8) if dead else 0,
            "bias_values": 0 if self.bias is None else self.bias * ITEM_BYTES[self.float_dtype],
            "live_rows": ceil(rows / 8) if self.bias is not None and self.bias < rows else 0,
        }
        item = self.rank * ITEM_BYTES[self.float_dtype]
        sizes |= {"low_rank_rows": self.kept_rows * item, "low_rank_columns": self.channels * item}
        sizes |= {f"input_{name}_values": self.channels * ITEM_BYTES[self.float_dtype] for name in self.affine}
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
            str(bits): [self.groups[bits], self.lines[bits], self.floats[bits], *self._kept(bits)]
            for bits in self.groups
        }
        optional = {
            "nested": list(self.nested),
            "scale_dtype": self.scale_dtype,
            "float_dtype": self.float_dtype,
            "affine": list(self.affine),
            "rank": self.rank,
        }
        return content | {key: value for key, value in optional.items() if value not in ([], "float16", 0)}

    def _kept(self, bits: int) -> list[int]:
        return [self.kept[bits]] if self.kept else []

    @classmethod
    def from_dict(cls, content: Mapping) -> "MatrixStorage":
        """The inverse of `to_dict`."""
        layout = dict(content["layout"])
        layout["shape"] = tuple(layout["shape"])
        table = {int(bits): numbers for bits, numbers in content["precisions"].items()}
        groups, lines, floats = ({bits: numbers[i] for bits, numbers in table.items()} for i in range(3))
        kept = {bits: numbers[3] for bits, numbers in table.items() if len(numbers) > 3}
        rest: dict[str, Any] = {key: content[key] for key in ("scale_dtype", "float_dtype") if key in content}
        rest |= {"affine": tuple(content.get("affine", ())), "rank": content.get("rank", 0)}
        return cls(
            SubgroupLayout(**layout),
            groups,
            lines,
            floats,
            content["encoding"],
            content["length"],
            kept,
            content["bias"],
            tuple(content.get("nested", ())),
            **rest,
        )

    def with_changes(self, **changes) -> "MatrixStorage":
        """A copy with some fields replaced."""
        return replace(self, **changes)
