"""One immutable point of a precision space."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

from .files import write_text
from .json_file import read_json
from .shape import ModelShape


@dataclass(frozen=True)
class MatrixAssignment:
    """The precision of one weight matrix.

    Attributes:
        bits: of each sub-group, 0 = pruned.
        keep_of: N:M sparsity as `(kept, block)`, `(1, 1)` where all is kept and a pattern could have been chosen; None
            for a matrix that has no pattern, or of which nothing is said.
        nested: precisions that the stored codes serve, highest last; empty for a plain matrix.
    """

    bits: tuple[int, ...]
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
    """Bits for each sub-group of each matrix, with activation bits, and the shape of the model where that is chosen.

    Names are relative to the model's `base_model_prefix`, so that one assignment fits every head.

    Attributes:
        matrices: name to `MatrixAssignment`.
        activation_bits: name to bits of the input activation, where it is quantized.
        shape: of the model; None, or a shape that says nothing, leaves it as it is.
    """

    matrices: Mapping[str, MatrixAssignment]
    activation_bits: Mapping[str, int] = field(default_factory=dict)
    shape: ModelShape | None = None

    def __post_init__(self):
        object.__setattr__(self, "matrices", MappingProxyType(dict(self.matrices)))
        object.__setattr__(self, "activation_bits", MappingProxyType(dict(self.activation_bits)))
        object.__setattr__(self, "shape", None if self.shape == ModelShape() else self.shape)

    def __reduce__(self):
        return Assignment, (dict(self.matrices), dict(self.activation_bits), self.shape)

    def to_dict(self) -> dict:
        """JSON-able form; fields at their defaults are left out."""
        matrices = {
            name: {key: value for key, value in asdict(matrix).items() if key == "bits" or value}
            for name, matrix in self.matrices.items()
        }
        content = {"matrices": matrices, "activation_bits": dict(self.activation_bits)}
        return content if self.shape is None else {**content, "shape": self.shape.to_dict()}

    @classmethod
    def from_dict(cls, content: Mapping) -> "Assignment":
        """The inverse of `to_dict`; raises ValueError when `content` is not an assignment.

        What earlier releases wrote is read: `layers` is part of the shape, and the `shape` of a matrix, which is that
        of the model anyway, is passed over.
        """
        if not isinstance(content.get("matrices"), Mapping):
            raise ValueError("not an assignment: it has no 'matrices'; write one with Assignment.save")
        matrices = {name: _matrix(name, fields) for name, fields in content["matrices"].items()}
        activations = content.get("activation_bits", {})
        if not isinstance(activations, Mapping) or not _are_numbers(activations.values()):
            raise ValueError("not an assignment: its 'activation_bits' are not names with whole numbers")
        return cls(matrices, activations, _shape(content))

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
            found.pop("shape", None)
            return MatrixAssignment(**found)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not an assignment of {name!r}: {error}") from None
    raise ValueError(f"not an assignment of {name!r}: its fields are not lists of whole numbers")


def _shape(content: Mapping) -> ModelShape | None:
    given = content.get("shape")
    if content.get("layers") is not None:
        given = {"layers": content["layers"]}
    try:
        return None if given is None else ModelShape.from_dict(given)
    except ValueError as error:
        raise ValueError(f"not an assignment: {error}") from None


def _are_numbers(values: Iterable) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)
