"""Bytes of what is stored beside the matrices: norms, grids of activations, and every float tensor."""

import torch
from torch import nn

from ..core import PrecisionSpace
from ..nn import Family, relative_names
from ..weights import ACTIVATIONS


def counted(model, family: Family | None, modules: dict[str, nn.Module], space: PrecisionSpace) -> dict[str, int]:
    """Parameters of the norms, and bytes of whatever is stored as it is, in all and by place."""
    prefixes = tuple(f"{prefix}." for prefix in family.layer_prefixes(model)) if family is not None else ()
    sets = max(len(space.norm_precisions), 1)
    sizes = {name: sets * sum(p.numel() for p in modules[name].parameters()) for name in space.norms}
    others = _other_tensors(model, {*space.weights, *space.norms}) | _activation_bytes(space, prefixes)
    inside = lambda name, starts: bool(starts) and name.startswith(starts)  # noqa: E731
    return {
        "norm_parameters": sum(sizes.values()),
        "encoder_norm_parameters": sum(size for name, size in sizes.items() if inside(name, prefixes)),
        "other_bytes": sum(others.values()),
        "encoder_other_bytes": sum(size for name, size in others.items() if inside(name, prefixes)),
        "embedding_other_bytes": sum(size for name, size in others.items() if name.startswith("embeddings.")),
    }


def _activation_bytes(space: PrecisionSpace, prefixes: tuple[str, ...]) -> dict[str, int]:
    """Name to bytes of the activation grids that are stored: of inputs, and of four attention operands a layer."""
    found = {
        f"{name}.input_quantizer": ACTIVATIONS[spec.activation.quantizer].stored_bytes
        for name, spec in space.weights.items()
        if spec.activation is not None
    }
    if space.attention is not None:
        specs = (*[space.attention.operands] * 3, space.attention.probabilities)
        per_layer = sum(ACTIVATIONS[spec.quantizer].stored_bytes for spec in specs)
        found |= {f"{prefix}attention": per_layer for prefix in prefixes}
    return {name: size for name, size in found.items() if size}


def _other_tensors(model: nn.Module, converted: set[str]) -> dict[str, int]:
    """Relative name to bytes of every stored tensor that belongs to no converted layer, ties counted once."""
    relative = relative_names(model)
    tied = {relative(key) for key in getattr(model, "all_tied_weights_keys", None) or ()}
    found = {}
    for full, tensor in model.state_dict().items():
        name = relative(full)
        owner = name.rpartition(".")[0]
        if name not in tied and not any(owner == other or owner.startswith(f"{other}.") for other in converted):
            found[name] = tensor.numel() * torch.empty((), dtype=tensor.dtype).element_size()
    return found
