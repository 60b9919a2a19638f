"""How one weight is cut into sub-groups."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

_REDUCTIONS: Mapping[str, Callable[..., Tensor]] = {"amin": torch.amin, "amax": torch.amax, "sum": torch.sum}


def spread(total: int, parts: int) -> tuple[int, ...]:
    """Sizes of `parts` contiguous blocks that cover `total` items, differing by at most one, larger ones first."""
    parts = min(parts, total)
    small, extra = divmod(total, parts)
    return (small + 1,) * extra + (small,) * (parts - extra)


@dataclass(frozen=True)
class SubgroupLayout:
    """Contiguous blocks of output neurons (axis 0) or of input features (axis 1) of a weight `(out, in)`.

    Args:
        shape: `(out, in)` of the weight.
        groups: number of sub-groups in each shard; more than there are rows means one row each.
        axis: 0 cuts rows, 1 cuts columns.
        shards: number of equal logical matrices fused along the axis (3 in a fused q, k, v; 2 in a gated unit).
    """

    shape: tuple[int, int]
    groups: int = 1
    axis: int = 0
    shards: int = 1

    def __post_init__(self):
        if self.groups < 1:
            raise ValueError(f"a layout needs at least one sub-group, got {self.groups}")
        if self.axis not in (0, 1):
            raise ValueError(f"axis must be 0 (rows) or 1 (columns), got {self.axis}")
        if self.shards < 1 or self.shape[self.axis] % self.shards:
            raise ValueError(f"{self.shape[self.axis]} rows cannot be {self.shards} equal shards")

    @classmethod
    def of(cls, kind: int | str, shape: Sequence[int], shards: int = 1, heads: int | None = None) -> "SubgroupLayout":
        """Build a layout from a config word: a count per shard, `"channel"`, `"head"`, `"matrix"` or `"columns:<n>"`.

        Raises:
            ValueError: for an unknown word, or `"head"` where the weight has no heads.
        """
        shape = (int(shape[0]), int(shape[1]))
        if isinstance(kind, int):
            return cls(shape, kind, shards=shards)
        if kind == "channel":
            return cls(shape, shape[0] // shards, shards=shards)
        if kind == "matrix":
            return cls(shape, 1, shards=shards)
        if kind == "head":
            if heads is None:
                raise ValueError("groups='head' needs a weight with attention heads; use a count or 'channel' here")
            return cls(shape, heads, shards=shards)
        if kind.startswith("columns:") and kind.removeprefix("columns:").isdigit():
            return cls(shape, int(kind.removeprefix("columns:")), axis=1)
        raise ValueError(f"unknown groups {kind!r}; use a count, 'channel', 'head', 'matrix' or 'columns:<count>'")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows (or columns) in each sub-group, over all shards: `(groups,)`."""
        return self._sizes() if torch.compiler.is_compiling() else self._kept_sizes  # whose lock would end a graph

    def _sizes(self) -> tuple[int, ...]:
        return spread(self.shape[self.axis] // self.shards, self.groups) * self.shards

    @cached_property
    def _kept_sizes(self) -> tuple[int, ...]:
        return self._sizes()

    @property
    def count(self) -> int:
        """Number of sub-groups over all shards."""
        return min(self.groups, self.shape[self.axis] // self.shards) * self.shards

    @property
    def line_length(self) -> int:
        """Weights in one row (axis 0) or one column (axis 1)."""
        return self.shape[1 - self.axis]

    @property
    def numel(self) -> tuple[int, ...]:
        """Weights in each sub-group: `(groups,)`."""
        return tuple(size * self.line_length for size in self.sizes)

    def index(self, device: torch.device | str = "cpu") -> Tensor:
        """Sub-group of each row (or column): `(lines,)`, int64."""
        device = torch.device(device)
        return _line_index(self, device) if torch.compiler.is_compiling() else _made_line_index(self, device)

    def lines(self, weight: Tensor) -> Tensor:
        """The weight with the cut axis first: `(lines, line_length)`; its own inverse for axis 1."""
        return weight if self.axis == 0 else weight.T

    def expand(self, values: Tensor) -> Tensor:
        """Values `(groups, ...)` repeated for each line: `(lines, ...)`."""
        return values.index_select(0, self.index(values.device))

    def split(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Views of the sub-groups, in order."""
        return torch.split(weight, list(self.sizes), dim=self.axis)

    def merge(self, parts: Sequence[Tensor]) -> Tensor:
        """The inverse of `split`."""
        return torch.cat(tuple(parts), dim=self.axis)

    def reduce(self, weight: Tensor, how: str) -> Tensor:
        """`"amin"`, `"amax"` or `"sum"` of each sub-group of `weight`: `(groups,)`."""
        return self.reduce_lines(_REDUCTIONS[how](self.lines(weight), dim=1), how)

    def reduce_lines(self, values: Tensor, how: str) -> Tensor:
        """`"amin"`, `"amax"` or `"sum"` over the lines of each sub-group: `(lines, ...)` to `(groups, ...)`."""
        if self.count == len(values):
            return values
        if len(set(self.sizes)) == 1:
            return _REDUCTIONS[how](values.unflatten(0, (self.count, self.sizes[0])), dim=1)
        index = self.index(values.device).reshape(-1, *[1] * (values.dim() - 1)).expand_as(values)
        start = values.new_zeros((self.count, *values.shape[1:]))
        return start.scatter_reduce(0, index, values, reduce=how, include_self=how == "sum")


def _line_index(layout: SubgroupLayout, device: torch.device) -> Tensor:
    if layout.count == layout.shape[layout.axis]:
        return torch.arange(layout.count, device=device)
    sizes = torch.tensor(layout.sizes, device=device)
    return torch.repeat_interleave(torch.arange(layout.count, device=device), sizes, output_size=sum(layout.sizes))


@lru_cache(maxsize=4096)
def _made_line_index(layout: SubgroupLayout, device: torch.device) -> Tensor:
    """On the device once and for all: making it there anew waits for what is under way."""
    with torch.inference_mode(False):
        return _line_index(layout, device)
