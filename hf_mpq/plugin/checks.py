"""Does a checkpoint hold what the skeleton needs? Asked before anything is loaded, answered by one error."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core import PrecisionSpace
from ..format import PackedFormatError, check_digests, read_headers
from ..nn import MPQLayerNorm, body_name, body_of, family_of, modules_by_name, relative_modules, relative_names
from ..nn.matrix import QuantizedMatrix
from ..nn.packed import PackedModule, PackedTiedLinear

_TYPES = {
    "U8": "uint8",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "BOOL": "bool",
    "I64": "int64",
    "I32": "int32",
}
_OLD_NORM = r"LayerNorm\.(gamma|beta)$", lambda match: f"LayerNorm.{_NEW_NORM[match[1]]}"
_NEW_NORM = {"gamma": "weight", "beta": "bias"}
_RENAMED = (
    "; where an early hf_mpq saved it under the original checkpoint's names, save it anew from the float "
    "model: both storages keep the model's own names now"
)
_QUANTIZED = (QuantizedMatrix, MPQLayerNorm, PackedModule)


def check_checkpoint(
    model: nn.Module, files: Iterable[str | Path], partly: Mapping[str, tuple[int, ...]] | None = None
) -> bool:
    """Compare the headers of all shards with what the quantized layers of a skeleton expect.

    Args:
        partly: relative name to the shape of what will be read of a tensor, where that is not all of it.

    Returns:
        Whether the files hold every tensor of the model, heads included, under its own name.

    Raises:
        PackedFormatError: when a tensor of the body or of a quantized layer is missing, of another shape or type, or
            when the file has one that the skeleton does not know; the first differences are listed.
    """
    headers = read_headers(files)
    found = _found(model, headers)
    found |= {name: (found[name][0], shape) for name, shape in (partly or {}).items()}
    expected, state, relative = _expected(model), model.state_dict(), relative_names(model)
    known = {relative(name) for name in state}
    owned = {name for name, _ in relative_modules(model, _QUANTIZED)}
    owned |= {name for name, _ in body_of(model).named_children()}
    problems = [_difference(name, tensor, found.get(name)) for name, tensor in expected.items()]
    problems += [_other_type(relative(full), tensor, found) for full, tensor in state.items()]
    problems += [f"{name} is in the file but not in the model" for name in found if _foreign(name, known, owned)]
    problems = [problem for problem in dict.fromkeys(problems) if problem]
    if problems:
        listed = "; ".join(problems[:3])
        renamed = expected.keys() - found.keys() and any(_foreign(name, known, owned) for name in found)
        raise PackedFormatError(
            f"the checkpoint does not fit its config.json in {len(problems)} places: {listed}. Were the two files "
            f"saved together? Copy or download the folder again{_RENAMED if renamed else ''}"
        )
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    return {relative(full) for full in state if full not in tied} <= {relative(full) for full in headers}


def _found(model: nn.Module, headers: Mapping[str, tuple]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Relative name to type and shape of every tensor in the files; the names that transformers gives up when it loads
    are read as those that it takes instead."""
    relative = relative_names(model)
    return {relative(re.sub(*_OLD_NORM, name)): entry for name, entry in headers.items()}


def without_new_projections(space: PrecisionSpace, model: nn.Module, files: Iterable[str | Path]) -> PrecisionSpace:
    """The space without projections that the files do not have: another head's, which will be new."""
    found = _found(model, read_headers(files))
    kept = {
        name: spec for name, spec in space.weights.items() if spec.role != "projection" or f"{name}.weight" in found
    }
    return replace(space, weights=kept)


def _expected(model: nn.Module) -> dict:
    """Tensors that must be in the file, by relative name: all of the body, and of quantized layers in heads.

    Other layers of a head may be new, and so may a float projection (a pooler that the saved model did not have).
    """
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    modules = dict(modules_by_name(model))
    family = family_of(model)
    optional = family.projections if family is not None else ()
    needed, body, relative = {}, body_name(model), relative_names(model)
    inside_quantized = cache(lambda owner: any(_is_quantized(modules.get(part)) for part in _parents(owner)))
    for full, tensor in model.state_dict().items():
        name, owner = relative(full), full.rpartition(".")[0]
        quantized = inside_quantized(owner)
        plain_projection = relative(owner) in optional and not quantized
        inside = not body or full.startswith(f"{body}.")
        if full not in tied and (quantized or (inside and not plain_projection)):
            needed[name] = tensor
    return needed


def _is_quantized(module: nn.Module | None) -> bool:
    """A decoder that reads a packed table is not: its bias is an ordinary one, and new in a new head."""
    return isinstance(module, _QUANTIZED) and not isinstance(module, PackedTiedLinear)


def new_decoders(model: nn.Module, files: Iterable[str | Path]) -> list[str]:
    """Full names of the decoders of packed tables whose bias the files do not hold."""
    decoders = [
        name
        for name, module in modules_by_name(model)
        if isinstance(module, PackedTiedLinear) and module.bias is not None
    ]
    if not decoders:
        return []
    found = _found(model, read_headers(files))
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    relative = relative_names(model)
    return [name for name in decoders if f"{name}.bias" not in tied and f"{relative(name)}.bias" not in found]


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Full name to shape of every parameter."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def check_shapes(model: nn.Module, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise PackedFormatError when loading changed a shape: with a quantizer, older transformers let that pass."""
    changed = [(name, shape) for name, shape in parameter_shapes(model).items() if shape != expected.get(name, shape)]
    for name, shape in changed[:1]:
        raise PackedFormatError(
            f"{name} has shape {shape} in the checkpoint instead of {expected[name]}: is it another model's, or does "
            "its head have another number of labels?"
        )


def check_there(model: nn.Module) -> None:
    """Raise ValueError when stored bytes were left on disk, where they can be neither checked nor decoded."""
    for name, module in relative_modules(model, PackedModule):
        if any(octets.is_meta for octets in module.buffers()):
            raise ValueError(
                f"the codes of {name} were left on disk, where they can be neither checked nor decoded: load without "
                "offload_buffers=True"
            )


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _difference(name: str, tensor, entry: tuple[str, tuple[int, ...]] | None) -> str | None:
    if entry is None:
        return f"{name} is missing"
    shape = entry[1]
    if tuple(tensor.shape) != shape:
        return f"{name} has shape {shape} instead of {tuple(tensor.shape)}"
    return _other_type(name, tensor, {name: entry})


def _other_type(name: str, tensor: Tensor, found: Mapping[str, tuple[str, tuple[int, ...]]]) -> str | None:
    """Floats may be of any type; what is none is of its own."""
    if name not in found:
        return None
    kind = _TYPES.get(found[name][0], found[name][0])
    expected = str(tensor.dtype).removeprefix("torch.")
    same = "float" in kind.lower() if tensor.is_floating_point() else kind == expected
    return None if same else f"{name} has type {kind} instead of {expected}"


def _foreign(name: str, known: set[str], owned: set[str]) -> bool:
    """Whether a tensor in the file belongs to the body or to a quantized layer, and the model does not know it."""
    return name not in known and any(part in owned for part in _parents(name))


def packed_tensors(model: nn.Module) -> dict:
    """Every stored byte, of packed layers and of activation grids, by relative name."""
    relative = relative_names(model)
    return {relative(name): octets for name, octets in model.named_buffers() if octets.dtype == torch.uint8}


def check_loaded(model: nn.Module, expected: Mapping[str, str]) -> None:
    """Raise PackedFormatError when a packed tensor of format 1 differs from its digest."""
    check_digests(packed_tensors(model), expected)
