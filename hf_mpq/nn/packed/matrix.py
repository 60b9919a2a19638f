"""Stored bytes of one matrix, and their way back to floats."""

from collections.abc import Callable
from functools import cache
from math import ceil

import torch
from torch import Tensor

from ...core import MatrixStorage, from_bytes
from ...core.precisions import check_served
from ...format import mask_encoding, unpack_flags, unpack_planes
from ...weights import ENCODINGS, Encoding
from .active import active_backend, refuse_export
from .module import PackedModule


class PackedMatrix(PackedModule):
    """Base of the packed layers with a weight `(out, in)`.

    Attributes:
        stored: what the shapes of the buffers depend on.
        keep_of: what an N:M mask kept, as `(kept, block)`; None without one.
        precision: active precision of nested codes; None reads all planes.
        prepared: backend to what it put in place of decoding: from the (normalised) input of a linear layer, or the ids
            of a table, to the output. Emptied by copies, moves to another device or type, changes of precision, and
            loading into it.
        weight, bias: decoded anew at each access, in the compute type.
    """

    def __init__(self, stored: MatrixStorage, dtype: torch.dtype, device: torch.device | str | None = None):
        super().__init__(dtype, device)
        self.stored = stored
        self.keep_of: tuple[int, int] | None = None
        self.precision: int | None = None
        self.prepared: dict[str, Callable[[Tensor], Tensor]] = {}
        for name, size in stored.buffers().items():
            self.register_buffer(name, torch.empty(size, dtype=torch.uint8, device=device))

    def storage(self) -> MatrixStorage:
        """How this matrix is packed."""
        return self.stored

    @property
    def nested(self) -> tuple[int, ...]:
        """Precisions that the stored codes serve; empty for codes of one precision."""
        return self.stored.served

    @property
    def used_precision(self) -> int:
        """Of nested codes, the precision that is decoded."""
        return self.precision or self.stored.served[-1]

    @property
    def weight(self) -> Tensor:
        """The decoded weight, `(out, in)`."""
        return self.decode().to(self.compute_dtype)

    @property
    def bias(self) -> Tensor | None:
        """The decoded bias, `(out,)`; None without one."""
        if self.stored.bias is None:
            return None
        rows = self.stored.layout.shape[0]
        full = torch.zeros(rows, dtype=torch.float32, device=self.device)
        if self.stored.bias:
            full[self.row_flags()] = from_bytes(self.bias_values, getattr(torch, self.stored.float_dtype))
        return full.to(self.compute_dtype)

    def float_parts(self) -> dict[str, torch.dtype]:
        scales, floats = getattr(torch, self.stored.scale_dtype), getattr(torch, self.stored.float_dtype)
        return {
            name: scales if name == "scales" else floats
            for name in self._buffers
            if name == "scales" or name.endswith("_values") or name.startswith("low_rank_")
        }

    def contradiction(self) -> str | None:
        stored = self.stored
        if stored.map_bits:
            bits = self.group_bits()
            found = _counts(bits), _counts(stored.layout.expand(bits))
        else:  # of one precision, or of none
            alike, layout = [bits for bits in stored.precisions if bits], stored.layout
            found = dict.fromkeys(alike, layout.count), dict.fromkeys(alike, layout.shape[layout.axis])
        if found != (dict(stored.groups), dict(stored.lines)):
            return "its map has other numbers of sub-groups and lines at each precision than"
        if "live_columns" in self._buffers and int(self.column_flags().sum()) != stored.length:
            return "it stores another number of columns than"
        if stored.bias is not None and int(self.row_flags().sum()) != stored.bias:
            return "it stores another number of bias entries than"
        if {bits: int(flags.sum()) for bits, flags in self._kept_flags().items()} != dict(stored.kept):
            return "its mask keeps another number of weights than"
        return None

    def row_flags(self) -> Tensor:
        """Rows with a stored bias, `(out,)` bool."""
        return self._flags("live_rows", self.stored.layout.shape[0])

    def column_flags(self) -> Tensor:
        """Columns that are stored, `(in,)` bool."""
        return self._flags("live_columns", self.stored.layout.line_length)

    def _octets(self, name: str) -> Tensor:
        """A stored tensor; empty ones have no buffer."""
        return self._buffers.get(name, torch.empty(0, dtype=torch.uint8, device=self.device))

    def _flags(self, name: str, count: int) -> Tensor:
        if name not in self._buffers:
            return torch.ones(count, dtype=torch.bool, device=self.device)
        return unpack_flags(self._buffers[name], count)

    def group_bits(self) -> Tensor:
        """Precision of each sub-group, `(groups,)` int64."""
        stored, count = self.stored, self.stored.layout.count
        precisions = torch.tensor(stored.precisions or (0,), device=self.device)
        if not stored.map_bits:
            return precisions.expand(count)
        index = unpack_planes(self.map.view(stored.map_bits, 1, ceil(count / 8)), count)[0]
        return precisions[index.long().clamp(max=len(precisions) - 1)]

    def lines_by_precision(self) -> dict[int, Tensor]:
        """Line numbers at each stored precision, ascending within each."""
        if not self.stored.map_bits:  # one precision has all lines, or all are pruned
            return {bits: torch.arange(lines, device=self.device) for bits, lines in self.stored.lines.items()}
        order = torch.argsort(self.stored.layout.expand(self.group_bits()), stable=True)
        return dict(zip(self.stored.lines, self._tail(order, self.stored.lines.values())))

    def _tail(self, order: Tensor, counts) -> tuple[Tensor, ...]:
        """The last parts of `order`, of the given sizes; what comes before them is pruned."""
        counts = list(counts)
        return order[len(order) - sum(counts) :].split(counts)

    def group_floats(self) -> dict[int, Tensor]:
        """Stored floats at each precision, `(groups at it, floats)`."""
        stored = self.stored
        values = from_bytes(self.scales, getattr(torch, stored.scale_dtype)) if stored.scale_count else None
        sizes = [count * stored.floats[bits] for bits, count in stored.groups.items()]
        parts = values.split(sizes) if sizes else ()
        return {bits: part.view(stored.groups[bits], -1) for bits, part in zip(stored.groups, parts)}

    def line_floats(self) -> Tensor:
        """Row of `group_floats` that belongs to each line, `(lines,)` int64."""
        layout = self.stored.layout
        if not self.stored.map_bits:
            return layout.index(self.device)
        order = torch.argsort(self.group_bits(), stable=True)
        rank = torch.zeros_like(order)
        for groups in self._tail(order, self.stored.groups.values()):
            rank[groups] = torch.arange(len(groups), device=order.device)
        return layout.expand(rank)

    def code_planes(self) -> dict[int, Tensor]:
        """Bit planes at each precision, `(planes, lines, bytes)`; of nested codes only the active ones."""
        stored = self.stored
        sizes = [stored.code_bytes(bits) for bits in stored.groups]
        parts = self._octets("codes").split(sizes) if sizes else ()
        lines = {bits: 1 if stored.kept else stored.lines[bits] for bits in stored.groups}
        planes = {bits: part.view(bits, lines[bits], -1) for bits, part in zip(stored.groups, parts)}
        return {bits: table[: self.precision or bits] for bits, table in planes.items()}

    def values(self, planes: Tensor, floats: Tensor, length: int) -> Tensor:
        """Decode some lines: planes and `(lines, floats)` to `(lines, length)` float32."""
        encoding = ENCODINGS[self.stored.encoding]
        return encoding.decode(unpack_planes(planes, length), floats, planes.shape[0], self.stored.nested)

    def decode(self) -> Tensor:
        """The weight in float32, `(out, in)`."""
        stored, layout = self.stored, self.stored.layout
        lines = torch.zeros(layout.shape[layout.axis], stored.length, dtype=torch.float32, device=self.device)
        floats, line_floats, planes = self.group_floats(), self.line_floats(), self.code_planes()
        keep = self._kept_flags()
        for bits, chosen in self.lines_by_precision().items():
            of_line = floats[bits][line_floats[chosen]]
            if stored.kept:
                lines[chosen] = self._masked_values(planes[bits], of_line, keep[bits])
            else:
                lines[chosen] = self.values(planes[bits], of_line, stored.length)
        return layout.lines(self._with_dead_columns(lines))

    def weight_at(self, bits: int) -> Tensor:
        """Of nested codes, the weight that is decoded at another precision, `(out, in)` float32."""
        used, self.precision = self.precision, bits
        try:
            return self.decode()
        finally:
            self.precision = used

    def integers(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """The stored matrix as `level * scale + offset`, one scale and offset per row.

        Returns:
            Levels `(out, in)` int8, scale and offset `(out,)` float32; None where that cannot be: with a scale per
            column, with codes that stand for no integers, or where values are left out that the offset would reach.
        """
        stored, layout = self.stored, self.stored.layout
        if layout.axis != 0 or not self.has_integers():
            return None
        levels = torch.zeros(layout.shape[0], stored.length, dtype=torch.int8, device=self.device)
        scale = torch.ones(layout.shape[0], dtype=torch.float32, device=levels.device)
        offset = torch.zeros_like(scale)
        floats, line_floats, planes = self.group_floats(), self.line_floats(), self.code_planes()
        keep, encoding = self._kept_flags(), ENCODINGS[stored.encoding]
        for bits, chosen in self.lines_by_precision().items():
            codes = _spread(planes[bits], keep[bits]) if stored.kept else unpack_planes(planes[bits], stored.length)
            of_line = floats[bits][line_floats[chosen]]
            found, scale[chosen], offset[chosen] = encoding.integers(codes, of_line, len(planes[bits]), stored.nested)
            levels[chosen] = found * keep[bits] if stored.kept else found
        complete = not stored.kept and stored.length == layout.line_length
        return (self._with_dead_columns(levels), scale, offset) if complete or not offset.any() else None

    def has_integers(self) -> bool:
        """Whether the stored codes of every precision stand for integers times a scale."""
        encoding, stored = ENCODINGS[self.stored.encoding], self.stored
        used = ((self.precision or bits, stored.floats[bits]) for bits in stored.groups)
        return all(_are_integers(encoding, bits, floats, stored.nested) for bits, floats in used)

    def _kept_flags(self) -> dict[int, Tensor]:
        """With a mask: which weights of the lines at each precision are stored, `(lines, length)` bool."""
        stored = self.stored
        if stored.mask is None:
            return {}
        encoding, sizes = mask_encoding(stored.mask.encoding), stored.mask.sizes
        parts = zip(sizes, self._octets("mask").split([*sizes.values()]))
        return {bits: encoding.decode(octets, stored.lines[bits], stored.length) for bits, octets in parts}

    def kept_weights(self) -> Tensor:
        """Weights that a mask keeps, `(out, in)` bool; those of pruned sub-groups count as kept."""
        live = self.column_flags()
        kept = live.expand(self.stored.layout.shape[self.stored.layout.axis], -1).clone()
        for bits, flags in self._kept_flags().items():
            chosen = self.lines_by_precision()[bits]
            kept[chosen.unsqueeze(1), live.nonzero().flatten()] = flags
        return self.stored.layout.lines(kept)

    def _masked_values(self, planes: Tensor, floats: Tensor, keep: Tensor) -> Tensor:
        spread = _spread(planes, keep)
        encoding = ENCODINGS[self.stored.encoding]
        return encoding.decode(spread, floats, planes.shape[0], self.stored.nested) * keep

    def _with_dead_columns(self, lines: Tensor) -> Tensor:
        if self.stored.length == self.stored.layout.line_length:
            return lines
        full = lines.new_zeros(len(lines), self.stored.layout.line_length)
        full[:, self.column_flags()] = lines
        return full

    def set_precision(self, bits: int) -> None:
        """Read only the top `bits` planes of nested codes; raises ValueError when that precision is not served."""
        check_served("this matrix", self.stored, bits)
        self.precision, self.prepared = bits, {}

    def in_place(self) -> Callable[[Tensor], Tensor] | None:
        """What runs in place of decoding now; None: nothing does."""
        name = active_backend()
        found = next(iter(self.prepared.values()), None) if name is None else self.prepared.get(name)
        if found is None:
            refuse_export()
        return found

    def _apply(self, fn, recurse=True):
        before = self.device, self.anchor.dtype
        applied = super()._apply(fn, recurse)
        if (self.device, self.anchor.dtype) != before:
            self.prepared = {}
        return applied

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if any(key.startswith(prefix) for key in state_dict):
            self.prepared = {}

    def __getstate__(self) -> dict:
        return {**self.__dict__, "prepared": {}}


@cache
def _are_integers(encoding: type[Encoding], bits: int, floats: int, nested: tuple[int, ...]) -> bool:
    """Whether codes of so many bits, with so many floats, stand for integers."""
    with torch.device("cpu"):
        code = torch.zeros(1, 1, dtype=torch.uint8)
        return encoding.integers(code, torch.ones(1, floats), bits, nested) is not None


def _counts(bits: Tensor) -> dict[int, int]:
    """How often each precision occurs, without 0."""
    return {value: count for value, count in enumerate(torch.bincount(bits).tolist()) if value and count}


def _spread(planes: Tensor, keep: Tensor) -> Tensor:
    """Codes of masked lines where the mask keeps a weight, 0 elsewhere, `(lines, length)` uint8."""
    codes = unpack_planes(planes, int(keep.sum())).flatten()
    return torch.zeros(keep.shape, dtype=torch.uint8, device=keep.device).masked_scatter(keep, codes)
