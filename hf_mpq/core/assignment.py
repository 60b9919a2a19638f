"""One immutable point of a precision space."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

from .files import write_text
from .json_file import read_json


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
        if not isinstance(content.get("matrices"), Mapping):
            raise ValueError("not an assignment: it has no 'matrices'; write one with Assignment.save")
        matrices = {name: _matrix(name, fields) for name, fields in content["matrices"].items()}
        layers, activations = content.get("layers"), content.get("activation_bits", {})
        if not isinstance(activations, Mapping) or not _are_numbers(activations.values()):
            raise ValueError("not an assignment: its 'activation_bits' are not names with whole numbers")
        if layers is not None and not (isinstance(layers, list | tuple) and _are_numbers(layers)):
            raise ValueError("not an assignment: its 'layers' are not whole numbers")
        return cls(matrices, activations, None if layers is None else tuple(layers))

    def save(self, path: str | Path) -> None:
        """Write the assignment as JSON, all of it or nothing."""
        write_text(path, json.dumps(self.to_dict()))

    @classmethod
    def load(cls, path: str | Path) -> "Assignment":
        """Read an assignment that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds no assignment; the message has its name.
        """
        content = read_json(path, "write it with Assignment.save")
        try:
            return cls.from_dict(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def __repr__(self) -> str:
        histogram = Counter(bits for matrix in self.matrices.values() for bits in matrix.bits)
        groups = ", ".join(f"{count} at {bits}" for bits, count in sorted(histogram.items()))
        return f"Assignment({len(self.matrices)} matrices; sub-groups by bits: {groups})"


def _matrix(name: str, fields: Mapping) -> MatrixAssignment:
    try:
        found = {key: tuple(value) for key, value in fields.items()}
        if all(map(_are_numbers, found.values())):
            return MatrixAssignment(**found)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not an assignment of {name!r}: {error}") from None
    raise ValueError(f"not an assignment of {name!r}: its fields are not lists of whole numbers")


def _are_numbers(values: Iterable) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)
