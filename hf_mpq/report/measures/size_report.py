"""How many bytes a model takes, part by part: what is reported is what is on disk."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from ...core import MatrixStorage
from ...nn import MPQLayerNorm, PackedLayerNorm, family_of, relative_name
from ...nn.embedding import MPQTiedLinear
from ...nn.matrix import QuantizedMatrix
from ...nn.packed import PackedMatrix, PackedTiedLinear
from ...weights import ActivationQuantizer
from .loading import loaded

MIB = 2.0**20
_ITEM_BYTES = {"float16": 2, "float32": 4}
_NORMS = (nn.LayerNorm, PackedLayerNorm)


@dataclass(frozen=True)
class Part:
    """Bytes of one layer.

    Attributes:
        name: relative to `base_model_prefix`.
        place: `"encoder"`, `"embeddings"` or `"head"` (pooler, projections and task head).
        packed_bytes: what `pack` writes of it.
        float_bytes: what it took as float32.
        stored: shapes of the codes; None for a layer that stays float.
        paper_bits: bits by the papers' convention.
        used: of nested codes, the shapes of what the active precision reads; else as `stored`.
    """

    name: str
    place: str
    packed_bytes: int
    float_bytes: int
    stored: MatrixStorage | None
    paper_bits: float
    used: MatrixStorage | None = None


@dataclass(frozen=True)
class SizeReport:
    """Sizes of a model; print it for a table.

    Attributes:
        parts: every layer that stores something.
        stored_bytes: bytes of the state dict as it is now, tied tensors once.
    """

    parts: tuple[Part, ...]
    stored_bytes: int

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors that `pack` writes (the file adds a header of some 10 kB)."""
        return sum(part.packed_bytes for part in self.parts)

    @property
    def encoder_bytes(self) -> int:
        """The encoder layers' share of `total_bytes`."""
        return self._bytes("encoder")

    @property
    def embedding_bytes(self) -> int:
        """The embeddings' share of `total_bytes`, their normalisation included."""
        return self._bytes("embeddings")

    @property
    def head_bytes(self) -> int:
        """The rest of `total_bytes`: pooler, projections, task head."""
        return self._bytes("head")

    @property
    def average_bits(self) -> float:
        """Stored code bits per compressible encoder weight, as budgets in bits count them: pruned, folded and masked
        ones at 0, masks themselves apart; 32 for a float model."""
        return self._average([part.stored for part in self.parts if part.place == "encoder"])

    @property
    def used_bits(self) -> float:
        """The same of the codes that are read: fewer where nested codes are used below what is stored."""
        return self._average([part.used for part in self.parts if part.place == "encoder"])

    @staticmethod
    def _average(found: list[MatrixStorage | None]) -> float:
        matrices = [stored for stored in found if stored is not None]
        weights = sum(stored.layout.shape[0] * stored.layout.shape[1] for stored in matrices)
        codes = sum(stored.code_bits for stored in matrices)
        return codes / weights if weights else 32.0

    @property
    def ratio(self) -> float:
        """`total_bytes` over the bytes of the same model in float32."""
        return self.total_bytes / sum(part.float_bytes for part in self.parts)

    @property
    def paper_mib(self) -> float:
        """Encoder size in MiB by the papers' convention: weights at their bits, biases and LayerNorms at 8 bits, no
        scales or maps, no embeddings, pooler or head; a float model counts 32 bits for everything."""
        return sum(part.paper_bits for part in self.parts if part.place == "encoder") / 8 / MIB

    def _bytes(self, place: str) -> int:
        return sum(part.packed_bytes for part in self.parts if part.place == place)

    def __str__(self) -> str:
        table = Table("part", "float32 MB", "packed MB", "ratio")
        for place in ("embeddings", "encoder", "head"):
            self._add_row(table, place, [part for part in self.parts if part.place == place])
        table.add_section()
        self._add_row(table, "total", list(self.parts))
        used = f", {self.used_bits:.2f} of them used" if self.used_bits < self.average_bits else ""
        table.caption = (
            f"{self.average_bits:.2f} bits per encoder weight{used}\n{self.paper_mib:.2f} MiB as papers count"
        )
        text = StringIO()
        Console(file=text, width=80, force_jupyter=False, color_system=None).print(table)
        return text.getvalue()

    @staticmethod
    def _add_row(table: Table, label: str, parts: list[Part]) -> None:
        before, after = sum(part.float_bytes for part in parts), sum(part.packed_bytes for part in parts)
        table.add_row(label, f"{before / 1e6:.2f}", f"{after / 1e6:.2f}", f"{after / before:.3f}" if before else "-")


def size_report(model: nn.Module | str | Path) -> SizeReport:
    """Sizes of a model, or of the model in a folder; trainable models are reported as `pack` would write them.

    Raises:
        OSError: when the folder holds no model.
    """
    model = loaded(model)
    return SizeReport(tuple(_parts(model)), _stored_bytes(model))


def _stored_bytes(model: nn.Module) -> int:
    tensors = {(t.data_ptr(), t.numel(), t.dtype): t for t in model.state_dict().values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _parts(model: nn.Module) -> Iterator[Part]:
    quantized = any(isinstance(module, QuantizedMatrix | PackedMatrix) for module in model.modules())
    layers, seen = _layer_names(model), set()
    for full, module in model.named_modules():
        name = relative_name(model, full)
        place = _place(name, layers)
        if isinstance(module, ActivationQuantizer):
            if module.stored_bytes and id(module) not in seen:
                seen.update(map(id, module.modules()))  # while bits are open it has one for each candidate
                yield Part(name, place, module.stored_bytes, 0, None, 0.0)
        elif isinstance(module, QuantizedMatrix | PackedMatrix):
            yield _matrix_part(name, place, module)
        elif isinstance(module, MPQLayerNorm | PackedLayerNorm):
            yield _norm_part(name, place, module)
        elif not _inside_quantized(model, full):
            yield from _plain_part(name, place, module, seen, quantized)


def _inside_quantized(model: nn.Module, full: str) -> bool:
    """Whether a module is a piece of a quantized layer, or of what only serves training."""
    parts = full.split(".")
    owners = (model.get_submodule(".".join(parts[:i])) for i in range(1, len(parts)))
    return any(isinstance(owner, QuantizedMatrix | PackedMatrix) for owner in owners)


def _layer_names(model: nn.Module) -> tuple[str, ...]:
    """What the names of modules in encoder layers begin with; nothing for an unknown family."""
    family = family_of(model)
    return tuple(f"{prefix}." for prefix in family.layer_prefixes(model)) if family is not None else ()


def _place(name: str, layers: tuple[str, ...]) -> str:
    if name.startswith(layers) if layers else re.search(r"\.\d+\.", name):
        return "encoder"
    return "embeddings" if name.startswith("embeddings.") else "head"


def _matrix_part(name: str, place: str, module: QuantizedMatrix | PackedMatrix) -> Part:
    stored = module.storage()
    rows, columns = stored.layout.shape
    biases = 0 if stored.bias is None else rows
    paper = _code_bits(stored) + 8 * biases
    used = stored.cut(module.used_precision) if module.nested else stored
    return Part(name, place, stored.total_bytes, 4 * (rows * columns + biases), stored, paper, used)


def _code_bits(stored: MatrixStorage) -> int:
    """Bits of the codes as papers count them: dead columns and padding included."""
    return sum(bits * lines * stored.layout.line_length for bits, lines in stored.lines.items())


def _norm_part(name: str, place: str, module: MPQLayerNorm | PackedLayerNorm) -> Part:
    count = module.normalized_shape[0] * (1 if module.bias is None else 2)
    sets = max(len(module.precisions), 1)
    return Part(name, place, sets * count * _ITEM_BYTES[module.float_dtype], 4 * count, None, 8.0 * count)


def _plain_part(name: str, place: str, module: nn.Module, seen: set[int], quantized: bool) -> Iterator[Part]:
    """What a layer that is not quantized stores itself, its submodules apart; a tied tensor belongs to the first."""
    if isinstance(module, MPQTiedLinear | PackedTiedLinear):
        own = [] if module.bias is None else [module.bias]
    else:
        persistent = [b for n, b in module._buffers.items() if n not in module._non_persistent_buffers_set]
        own = [*module._parameters.values(), *persistent]
    tensors = [tensor for tensor in own if tensor is not None and id(tensor) not in seen]
    seen |= {id(tensor) for tensor in tensors}
    if tensors:
        count = sum(tensor.numel() for tensor in tensors)
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        paper = 8.0 if quantized and isinstance(module, _NORMS) else 32.0
        yield Part(name, place, size, 4 * count, None, paper * count)
