"""The space of a quantized model: made when the model is quantized, and kept with its quantizer."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.initialization import no_init_weights

from ..core import Assignment, MatrixAssignment, PrecisionSpace, WeightSpec
from ..nn import PackedLayerNorm, derive, family_of
from ..nn.construction import class_from_config
from ..nn.matrix import QuantizedMatrix
from ..nn.packed import PackedMatrix
from ..nn.shapes import apply_shapes
from ..nn.walk import matrices
from ..weights import GATES, MASKS
from .config import MPQConfig


def space_of(model: nn.Module) -> PrecisionSpace:
    """What may be chosen in a quantized model, as it was when it was quantized, loaded or fixed.

    It is made again only for a packed model that comes from a folder, and where the model has since got other tensors
    around its quantized layers: another type, another head.
    """
    found = kept_space(model)
    if found is None:
        keep_space(model, _made_again(model))
        found = model.hf_quantizer.space
    return found


def kept_space(model: nn.Module) -> PrecisionSpace | None:
    """The space that is kept with a model; None where there is none, or it is of the model before a change."""
    quantizer = model.hf_quantizer
    return quantizer.space if quantizer.space_is_of == _surroundings(model) else None


def keep_space(model: nn.Module, space: PrecisionSpace | None) -> None:
    """Keep a space with a model's quantizer, as `model.hf_quantizer.space`."""
    space = None if space is None else _with_kept_shares(space, model)
    model.hf_quantizer.space, model.hf_quantizer.space_is_of = space, _surroundings(model)


def _with_kept_shares(space: PrecisionSpace, model: nn.Module) -> PrecisionSpace:
    """With the density of every mask that only the weights say."""
    measured = {name for name, spec in space.weights.items() if spec.mask and MASKS[spec.mask].measured}
    if not measured:
        return space
    layers = dict(matrices(model, (QuantizedMatrix, PackedMatrix)))
    weights = {
        name: replace(spec, mask_options={**spec.mask_options, "density": _density(layers[name])})
        for name, spec in space.weights.items()
        if name in measured and name in layers
    }
    return replace(space, weights={**space.weights, **weights})


def _density(layer: QuantizedMatrix | PackedMatrix) -> float:
    """Share of the weights of stored lines that a mask keeps."""
    if isinstance(layer, QuantizedMatrix):
        return float(layer.program.mask.keep.double().mean())
    stored = layer.stored
    return sum(stored.kept.values()) / max(sum(stored.lines.values()) * stored.length, 1) if stored.mask else 1.0


def decided(space: PrecisionSpace, assignment: Assignment) -> PrecisionSpace:
    """The space of a model whose gates are closed by an assignment."""
    weights = {
        name: _decided(spec, assignment.matrices[name], assignment.activation_bits.get(name))
        for name, spec in space.weights.items()
        if name in assignment.matrices
    }
    return replace(space, weights=weights)


def _decided(spec: WeightSpec, given: MatrixAssignment, input_bits: int | None) -> WeightSpec:
    if spec.activation is not None and input_bits is not None:
        spec = replace(spec, activation=spec.activation.decided(input_bits))
    if spec.patterns:
        spec = spec.with_pattern(given.keep_of or spec.keep_of)
    if spec.nested or spec.bits == given.bits:
        return replace(spec, gate_options={})
    open_to = spec.candidates if spec.bits is None else ()
    candidates = tuple(sorted({*given.bits, *open_to}))
    if GATES[spec.gate].selects_planes:
        spec = replace(spec, source="float-master", source_options={})
    return replace(spec, candidates=candidates, bits=given.bits, gate="fixed", gate_options={})


def skeleton(kind: type[nn.Module], plain: PretrainedConfig, config: MPQConfig) -> nn.Module:
    """The float model's shapes, without weights."""
    plain = copy.deepcopy(plain)
    del plain.quantization_config
    with torch.device("meta"), no_init_weights():
        made = kind(plain)
    if config.inside:
        made.config.quantization_config = config
    apply_shapes(made, config.shapes)
    return made


def _made_again(model: nn.Module) -> PrecisionSpace:
    config = model.config.quantization_config
    if config.storage != "packed":
        return config.resolve(model)
    config = copy.deepcopy(config)
    config.storage, config.packed, config.assignment = "trainable", {}, derive(model).to_dict()
    space = config.resolve(skeleton(class_from_config(model) or type(model), model.config, config))
    return _with_stored_norms(space, model) if space.norm_precisions else space


def _with_stored_norms(space: PrecisionSpace, model: nn.Module) -> PrecisionSpace:
    """With the sets of parameters that normalisation layers still have, where planes were left out."""
    norms = dict(matrices(model, PackedLayerNorm))
    counts = {
        name: len(norm.precisions) * len(norm._buffers) * norm.normalized_shape[0] for name, norm in norms.items()
    }
    family = family_of(model)
    layers = tuple(f"{prefix}." for prefix in family.layer_prefixes(model)) if family is not None else ()
    inside = sum(count for name, count in counts.items() if name.startswith(layers))
    return replace(space, norm_parameters=sum(counts.values()), encoder_norm_parameters=inside)


def _surroundings(model: nn.Module) -> tuple[Any, ...]:
    """What a space depends on beside the quantized layers: the class, and the tensors that are stored as they are."""
    tensors = {
        f"{name}.{own}": (tuple(tensor.shape), tensor.dtype)
        for name, module in _not_ours(model, "")
        for own, tensor in module.named_parameters(recurse=False)
    }
    return type(model), repr(model.config.quantization_config.input_affine), tensors


def _not_ours(module: nn.Module, name: str):
    """Modules with their names, without the layers that `convert` and `pack_modules` put in, and what is in those."""
    if type(module).__module__.startswith("hf_mpq."):
        return
    yield name, module
    for key, child in module.named_children():
        yield from _not_ours(child, f"{name}.{key}")
