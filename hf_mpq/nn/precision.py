"""The precision at which the nested matrices of a model are used."""

from collections.abc import Mapping

from torch import nn

from ..core import MatrixStorage
from ..core.precisions import check_served, named_precisions, norm_precision
from .matrix import QuantizedMatrix
from .naming import relative_modules
from .norm import MPQLayerNorm
from .packed import PackedLayerNorm, PackedMatrix

_MATRICES = (QuantizedMatrix, PackedMatrix)


def nested_matrices(model: nn.Module) -> dict[str, nn.Module]:
    """Relative name to layer of every matrix with nested codes, packed or trainable."""
    return {name: layer for name, layer in relative_modules(model, _MATRICES) if layer.nested}


def nested_storages(model: nn.Module) -> dict[str, MatrixStorage]:
    """How each of them is stored, or would be."""
    return {name: layer.storage() for name, layer in nested_matrices(model).items()}


def used_precisions(model: nn.Module) -> dict[str, int]:
    """The precision at which each nested matrix is used now, by relative name."""
    return {name: layer.used_precision for name, layer in nested_matrices(model).items()}


def lowered_precisions(model: nn.Module) -> dict[str, int]:
    """Those that are used below what is stored."""
    highest = {name: stored.served[-1] for name, stored in nested_storages(model).items()}
    return {name: bits for name, bits in used_precisions(model).items() if bits != highest[name]}


def set_precision(model: nn.Module, bits: int | Mapping[str, int]) -> nn.Module:
    """Switch the nested matrices of a model to one of their precisions, in place; returns the model.

    Args:
        bits: of all of them, or by pattern; see `hf_mpq.core.precisions.named_precisions`. Matrices that no pattern
            finds stay as they are. Normalisation layers with a set of parameters for each precision follow, see
            `norm_precision`.

    Raises:
        ValueError: when the model is not nested, does not serve `bits`, or has no matrix that a pattern finds; it is
            then as it was.
    """
    others = (name for name, _ in relative_modules(model, _MATRICES))
    return use_precisions(model, named_precisions(bits, nested_storages(model), others))


def use_precisions(model: nn.Module, chosen: Mapping[str, int]) -> nn.Module:
    """The same by whole relative names."""
    layers, storages = nested_matrices(model), nested_storages(model)
    for name, bits in chosen.items():
        check_served(name, storages[name], bits)
    for name, bits in chosen.items():
        layers[name].set_precision(bits)
    used = used_precisions(model)
    for name, norm in relative_modules(model, (MPQLayerNorm, PackedLayerNorm)):
        if norm.precisions:
            norm.set_precision(norm_precision(name, norm.precisions, used, storages))
    return model
