"""What a nested model stores beside the codes that a budget chooses: of a trainable one, and of packed tensors."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from torch import nn

from ..core import MatrixStorage
from ..core.storage import ITEM_BYTES
from ..cost import AverageBits, StoredSize, float_bytes
from ..nn import Family, derive
from .nested_budget import ModelSizes
from .space import space_of


def sizes_of_trainable(model: nn.Module) -> ModelSizes:
    """By the costs of what the model would be packed as."""
    space, assignment = space_of(model), derive(model)
    bits = AverageBits(space)
    return ModelSizes(
        {scope: StoredSize(space, scope).of(assignment) for scope in ("model", "encoder")},
        {scope: float_bytes(space, scope) for scope in ("model", "encoder")},
        bits.of(assignment) * bits.weights,
        bits.weights,
        frozenset(name for name, spec in space.weights.items() if spec.role == "encoder"),
        {
            scope: _above(space.norm_precisions, count * ITEM_BYTES[space.norm_dtype])
            for scope, count in (("model", space.norm_parameters), ("encoder", space.encoder_norm_parameters))
        },
    )


def sizes_of_packed(
    tensors: Mapping[str, int], matrices: Mapping[str, MatrixStorage], norms: Mapping, family: Family | None
) -> ModelSizes:
    """The same of packed tensors, without a model.

    Args:
        tensors: relative name to bytes.
        matrices: relative name to how each packed matrix is stored.
        norms: relative name to `[float_dtype, precisions]` of packed normalisation layers.
        family: of the model; without one, all packed matrices are the encoder's.
    """
    layer = re.compile(rf"(?:{family.layer})\.") if family is not None else None
    encoder = frozenset(name for name in matrices if layer is None or layer.match(name))
    inside = {
        name: size
        for name, size in tensors.items()
        if (layer.match(name) if layer is not None else name.rpartition(".")[0] in matrices)
    }
    found = [matrices[name] for name in encoder]
    return ModelSizes(
        {"model": sum(tensors.values()), "encoder": sum(inside.values())},
        {"model": _as_floats(tensors, matrices, norms), "encoder": _as_floats(inside, matrices, norms)},
        sum(stored.code_bits for stored in found),
        sum(stored.layout.shape[0] * stored.layout.shape[1] for stored in found),
        encoder,
        {"model": _norms_above(tensors, norms), "encoder": _norms_above(inside, norms)},
    )


def _norms_above(tensors: Mapping[str, int], norms: Mapping) -> dict[int, float]:
    """Of packed tensors: by precision, the bytes of normalisation parameters that are for higher ones."""
    found = Counter()
    for name, size in tensors.items():
        found.update(_above(norms.get(name.rpartition(".")[0], ("", ()))[1], size))
    return dict(found)


def _above(precisions: Sequence[int], size: float) -> dict[int, float]:
    """By precision, the bytes of the sets for higher ones, of as many sets as precisions in `size` bytes."""
    count = len(precisions)
    return {bits: size * (count - 1 - place) / count for place, bits in enumerate(precisions)}


def _as_floats(tensors: Mapping[str, int], matrices: Mapping[str, MatrixStorage], norms: Mapping) -> float:
    total = 0.0
    for name, size in tensors.items():
        owner, _, part = name.rpartition(".")
        if owner in norms:
            total += size / ITEM_BYTES[norms[owner][0]] * 4
        elif owner not in matrices:
            total += size
        elif part == "codes":
            rows, columns = matrices[owner].layout.shape
            total += 4 * (rows * columns + (0 if matrices[owner].bias is None else rows))
    return total
