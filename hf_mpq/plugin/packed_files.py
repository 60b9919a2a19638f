"""The tensors of a packed folder by the layers that they belong to, as its table says, without a model."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..core import Budget, MatrixStorage
from ..core.precisions import named_precisions, norm_precision
from ..core.storage import ITEM_BYTES
from ..format import Digests, PackedFormatError, Prefix, read_headers, read_tensors
from ..nn import Family
from ..nn.packed import PackedMatrix
from .config import MPQConfig
from .cut import Cut
from .nested_budget import precisions_within
from .nested_sizes import sizes_of_packed
from .precision import weight_changes
from .written import read_matrix, reading

_NORM_PARTS = ("weight_values", "bias_values")


class PackedFiles:
    """Safetensors files of a packed model.

    Args:
        files: all of the model's.
        config: of the folder.
        family: of the model, which says what a budget counts as the encoder; None where it is not known.

    Attributes:
        matrices: relative name to how each packed matrix is stored.
        norms: relative name to the precisions of each packed normalisation layer.
        places: full name of every tensor of a packed layer to the layer's relative name, and the name of the part.

    Raises:
        PackedFormatError: the table of the config is damaged, or does not fit the files.
    """

    def __init__(self, files: Iterable[str | Path], config: MPQConfig, family: Family | None = None):
        self.files, self.config, self.family = list(files), config, family
        with reading("quantization_config.packed"):
            self.matrices = {name: _matrix(content) for name, content in config.packed["matrices"].items()}
            self.norms = {name: _norm(content) for name, content in config.packed["norms"].items()}
        self.headers = read_headers(self.files)
        self.places = {full: place for full in self.headers if (place := self._place(full)) is not None}
        self._check_sizes()

    @cached_property
    def nested(self) -> dict[str, MatrixStorage]:
        """The matrices with nested codes."""
        return {name: stored for name, stored in self.matrices.items() if stored.nested}

    def choose(self, bits: int | Mapping[str, int] | str | float | Budget) -> dict[str, int]:
        """The precision of each nested matrix that `bits` says something of; see `hf_mpq.set_precision`."""
        if not self.nested or not isinstance(bits, str | float | Budget):
            return named_precisions(bits, self.nested, self.matrices)
        tensors = {self._relative(full): self._bytes(full) for full in self.headers}
        sizes = sizes_of_packed(tensors, self.matrices, self.config.packed["norms"], self.family)
        return precisions_within(bits, self.nested, sizes, lambda name: weight_changes(self.layer(name)))

    def cut(self, chosen: Mapping[str, int]) -> Cut:
        """What is left when each of these matrices has only the planes up to a precision, one that it serves."""
        planes = {name: chosen.get(name, stored.served[-1]) for name, stored in self.nested.items()}
        less = {name: bits for name, bits in planes.items() if bits < self.nested[name].served[-1]}
        matrices = {name: (self.nested[name], self.nested[name].cut(bits)) for name, bits in less.items()}
        norms = {}
        for name, precisions in self.norms.items():
            highest = norm_precision(name, precisions, planes, self.nested) if precisions else 0
            kept = tuple(bits for bits in precisions if bits <= highest)
            if kept != precisions:
                norms[name] = (precisions, kept)
        return Cut(matrices, norms, self.places, frozenset(chosen))

    def layer(self, name: str) -> PackedMatrix:
        """One matrix, read whole."""
        layer = PackedMatrix(self.matrices[name], torch.float32)
        for part, tensor in self._read(name).items():
            layer.get_buffer(part).copy_(tensor)
        return layer

    def _read(self, name: str) -> dict[str, Tensor]:
        wanted = {full: part for full, (owner, part) in self.places.items() if owner == name}
        return {
            wanted[full]: tensor
            for full, tensor in read_tensors(self.files, Digests({}, {}), {}, wanted)
            if wanted[full] in self.matrices[name].buffers()
        }

    def prefixes(self, cut: Cut) -> dict[str, Prefix]:
        """Full name to the planes that are left, of the codes that lose some."""
        return {
            full: Prefix(after.served[-1], before.served[-1])
            for full, (owner, part) in self.places.items()
            if part == "codes" and owner in cut.matrices
            for before, after in [cut.matrices[owner]]
        }

    def _place(self, full: str) -> tuple[str, str] | None:
        owner, _, part = full.rpartition(".")
        words = owner.split(".")
        for start in range(len(words)):
            name = ".".join(words[start:])
            if name in self.matrices and part in self.matrices[name].buffers():
                return name, part
            if name in self.norms and part in _NORM_PARTS:
                return name, part
        return None

    def _relative(self, full: str) -> str:
        """A name without what the head's class puts before those of the encoder."""
        if full in self.places:
            return ".".join(self.places[full])
        return full.removeprefix(self._before)

    @cached_property
    def _before(self) -> str:
        before = {full.removesuffix(".".join(place)) for full, place in self.places.items()} - {""}
        return next(iter(before), "")

    def _bytes(self, full: str) -> int:
        kind, shape = self.headers[full]
        return torch.Size(shape).numel() * _ITEM.get(kind, 4)

    def _check_sizes(self) -> None:
        """Raise PackedFormatError where a tensor that may be cut is not there once, or has another size."""
        found: dict[tuple[str, str], str] = {}
        for full, place in self.places.items():
            if place in found:
                raise PackedFormatError(
                    f"{full} and {found[place]} are both {'.'.join(place)}: download the folder again"
                )
            found[place] = full
        for full, (name, _) in self.places.items():
            if name in self.norms and self.headers[full][1][0] % max(len(self.norms[name]), 1):
                raise PackedFormatError(f"{full} is not as config.json says: copy or download the folder again")
        for name, stored in self.nested.items():
            for part, size in stored.buffers().items():
                full = found.get((name, part))
                if full is None or self.headers[full] != ("U8", (size,)):
                    raise PackedFormatError(
                        f"{name}.{part} is not as config.json says: copy or download the folder again"
                    )


_ITEM = {"U8": 1, "I8": 1, "BOOL": 1, "F16": 2, "BF16": 2, "I16": 2, "F64": 8, "I64": 8}


def _matrix(content: Mapping) -> MatrixStorage:
    stored = read_matrix(content, tuple(content["layout"]["shape"]), content["bias"] is not None)
    if stored.nested and len(stored.groups) != 1:
        raise ValueError("nested codes are of one precision")
    return stored


def _norm(content: list) -> tuple[int, ...]:
    kind, precisions = content
    if kind not in ITEM_BYTES or list(precisions) != sorted(set(precisions)) or not set(precisions) <= set(range(1, 9)):
        raise ValueError("norms are not [type, precisions]")
    return tuple(precisions)
