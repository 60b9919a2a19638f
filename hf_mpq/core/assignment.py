"""One immutable point of a precision space."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

from .files import write_text


@dataclass(frozen=True)
class MatrixAssignment:
    """The precision and shape of one weight matrix.

    Attributes:
        bits: of each sub-group, 0 = pruned.
        shape: `(out, in)` where it differs from what the model's config gives, else None.
        keep_of: N:M sparsity as `(kept, block)`, else None.
        nested: precisions that the stored codes serve, highest last; empty for a plain matrix.
    """

    bits: tuple[int, ...]
    shape: tuple[int, int] | None = None
    keep_of: tuple[int, int] | None = None
    nested: tuple[int, ...] = ()

    def __post_init__(self):
        wrong = [bits for bits in self.bits if not 0 <= bits <= 8]
        if wrong:
            raise ValueError(f"bits must be 0 (pruned) to 8, got {sorted(set(wrong))}")

    def histogram(self) -> dict[int, int]:
        """Number of sub-groups at each precision, ascending."""
        return dict(sorted(Counter(self.bits).items()))


@dataclass(frozen=True)
class Assignment:
    """Bits for each sub-group of each matrix, with activation bits and shape.

    Names are relative to the model's `base_model_prefix`, so that one assignment fits every head.

    Attributes:
        matrices: name to `MatrixAssignment`.
        activation_bits: name to bits of the input activation, where it is quantized.
        layers: indices of the encoder layers kept; None keeps all.
    """

    matrices: Mapping[str, MatrixAssignment]
    activation_bits: Mapping[str, int] = field(default_factory=dict)
    layers: tuple[int, ...] | None = None

    def __post_init__(self):
        object.__setattr__(self, "matrices", MappingProxyType(dict(self.matrices)))
        object.__setattr__(self, "activation_bits", MappingProxyType(dict(self.activation_bits)))

    def __reduce__(self):
        return Assignment, (dict(self.matrices), dict(self.activation_bits), self.layers)

    def to_dict(self) -> dict:
        """JSON-able form; fields at their defaults are left out."""
        matrices = {
            name: {key: value for key, value in asdict(matrix).items() if key == "bits" or value}
            for name, matrix in self.matrices.items()
        }
        content = {"matrices": matrices, "activation_bits": dict(self.activation_bits)}
        return content if self.layers is None else {**content, "layers": list(self.layers)}

    @classmethod
    def from_dict(cls, content: Mapping) -> "Assignment":
        """The inverse of `to_dict`; raises ValueError when `content` is not an assignment."""
        if "matrices" not in content:
            raise ValueError("not an assignment: it has no 'matrices'; write one with Assignment.save")
        matrices = {name: _matrix(name, fields) for name, fields in content["matrices"].items()}
        layers = content.get("layers")
        return cls(matrices, content.get("activation_bits", {}), None if layers is None else tuple(layers))

    def save(self, path: str | Path) -> None:
        """Write the assignment as JSON, all of it or nothing."""
        write_text(path, json.dumps(self.to_dict()))

    @classmethod
    def load(cls, path: str | Path) -> "Assignment":
        """Read an assignment that `save` wrote."""
        return cls.from_dict(json.loads(Path(path).read_text()))

    def __repr__(self) -> str:
        histogram = Counter(bits for matrix in self.matrices.values() for bits in matrix.bits)
        groups = ", ".join(f"{count} at {bits}" for bits, count in sorted(histogram.items()))
        return f"Assignment({len(self.matrices)} matrices; sub-groups by bits: {groups})"


def _matrix(name: str, fields: Mapping) -> MatrixAssignment:
    try:
        return MatrixAssignment(**{key: tuple(value) for key, value in fields.items()})
    except TypeError as error:
        raise ValueError(f"not an assignment of {name!r}: {error}") from None
