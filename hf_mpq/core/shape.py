"""The shape of a model, where it is a choice."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class ModelShape:
    """What a model is cut or grown to; None leaves a dimension as it is.

    Attributes:
        layers: indices of the encoder layers kept, ascending from 0.
        hidden: hidden size.
        heads: attention heads of each layer kept.
        rows: feed-forward rows of each layer kept.

    Raises:
        ValueError: for a size below 1, layers that are not ascending, or lists of different lengths.
    """

    layers: tuple[int, ...] | None = None
    hidden: int | None = None
    heads: tuple[int, ...] | None = None
    rows: tuple[int, ...] | None = None

    def __post_init__(self):
        for name, value in self.to_dict().items():
            sizes, least = (value,) if name == "hidden" else value, 0 if name == "layers" else 1
            if not isinstance(sizes, tuple) or not sizes or not all(_is_number(one) and one >= least for one in sizes):
                raise ValueError(f"{name} of a shape: whole numbers of at least {least}, got {value!r}")
        if self.layers is not None and list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers of a shape must be ascending and distinct, got {self.layers}")
        if len({len(each) for each in (self.layers, self.heads, self.rows) if each is not None}) > 1:
            raise ValueError("layers, heads and rows of a shape must have one entry for each layer kept")

    def to_dict(self) -> dict:
        """JSON-able form; what is left as it is is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, content: Mapping) -> "ModelShape":
        """The inverse of `to_dict`; raises ValueError when `content` is no shape."""
        known = {field.name for field in fields(cls)}
        if not isinstance(content, Mapping) or not content.keys() <= known:
            raise ValueError(f"a shape has {', '.join(sorted(known))}, got {content!r}")
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
        }
        return cls(**given)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
