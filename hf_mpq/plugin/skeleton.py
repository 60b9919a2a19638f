"""A packed model's table in `config.json`, and the empty layers that it describes."""

import json

import torch
from torch import nn

from ..core import ActivationSpec, AttentionSpec, MatrixStorage
from ..core.storage import ITEM_BYTES
from ..format import PackedFormatError
from ..nn import (
    AttentionQuantizers,
    PackedEmbedding,
    PackedLayerNorm,
    PackedLinear,
    absolute_names,
    relative_modules,
)
from ..nn.attention import QuantizedDropout
from ..nn.convert import convert_attention, tie_packed, tied_decoders
from ..nn.embedding import scale_of
from ..nn.packed import PackedMatrix
from .written import read_activation, read_matrix, read_spec, reading


def packed_table(model: nn.Module) -> dict:
    """What the shapes of a packed model's tensors depend on, JSON-able."""
    matrices, norms = {}, {}
    for name, module in relative_modules(model):
        if isinstance(module, PackedMatrix):
            matrices[name] = module.stored.to_dict()
            if module.keep_of is not None:
                matrices[name]["keep_of"] = list(module.keep_of)
            quantizer = getattr(module, "input_quantizer", None)
            if quantizer is not None:
                matrices[name]["activation"] = _spec_list(quantizer.spec)
        elif isinstance(module, PackedLayerNorm):
            norms[name] = [module.float_dtype, list(module.precisions)]
    return {"matrices": matrices, "norms": norms, "attention": _attention_table(model)}


def _spec_list(spec: ActivationSpec) -> list:
    return [spec.quantizer, spec.bits, dict(spec.options)]


def _attention_table(model: nn.Module) -> list | None:
    for module in model.modules():
        if isinstance(module, AttentionQuantizers):
            return [_spec_list(module.query.spec), _spec_list(module.probabilities.spec)]
    operand = next((m.output_quantizer for m in model.modules() if getattr(m, "output_quantizer", None)), None)
    dropout = next((m for m in model.modules() if isinstance(m, QuantizedDropout)), None)
    if operand is None or dropout is None:
        return None
    return [_spec_list(operand.spec), _spec_list(dropout.quantizer.spec)]


def build_packed(model: nn.Module, table: dict, dtype: torch.dtype) -> None:
    """Replace the layers of a float skeleton by empty packed ones, in place; tables of absent heads are passed over.

    Raises:
        PackedFormatError: the table is damaged, or does not fit the skeleton.
    """
    with reading("quantization_config.packed"):
        parts = {part: dict(table[part]) for part in ("matrices", "norms")}
    absolute = absolute_names(model)
    if not any(absolute(name) for name in parts["matrices"]):
        raise PackedFormatError(
            f"this {type(model).__name__} has none of the packed matrices: load the folder as the "
            "class that it was saved from"
        )
    known: dict[tuple, MatrixStorage] = {}
    for name, content in parts["matrices"].items():
        full = absolute(name)
        if full is not None:
            with reading(f"quantization_config.packed.matrices.{name}"):
                model.set_submodule(full, _packed_matrix(model.get_submodule(full), content, dtype, known))
    for name, content in parts["norms"].items():
        full = absolute(name)
        if full is not None:
            with reading(f"quantization_config.packed.norms.{name}"):
                model.set_submodule(full, _packed_norm(model.get_submodule(full), content, dtype))
    tie_packed(model, tied_decoders(model))
    if table.get("attention"):
        with reading("quantization_config.packed.attention"):
            operands, probabilities = table["attention"]
            convert_attention(model, AttentionSpec(read_spec(operands), read_spec(probabilities)))


def _packed_norm(norm: nn.Module, content: list, dtype: torch.dtype) -> PackedLayerNorm:
    float_dtype, precisions = content
    if not isinstance(norm, nn.LayerNorm) or not set(precisions) <= set(range(1, 9)) or float_dtype not in ITEM_BYTES:
        raise ValueError(f"it does not describe this {type(norm).__name__}")
    return PackedLayerNorm(
        norm.normalized_shape[0], norm.eps, norm.bias is not None, float_dtype, tuple(precisions), dtype
    )


def _packed_matrix(module: nn.Module, content: dict, dtype: torch.dtype, known: dict) -> PackedMatrix:
    """`known` takes what was read of entries, of which most are alike."""
    if not isinstance(module, nn.Linear | nn.Embedding):
        raise ValueError(f"the model has a {type(module).__name__} there")
    shape, bias = tuple(module.weight.shape), getattr(module, "bias", None) is not None
    entry = json.dumps(content), shape, bias
    stored = known[entry] = known.get(entry) or read_matrix(content, shape, bias)
    if isinstance(module, nn.Embedding):
        scale = scale_of(module)
        return PackedEmbedding(stored, dtype, padding_idx=module.padding_idx, scalar_embed_scale=scale)
    layer = PackedLinear(stored, dtype, input_quantizer=read_activation(content.get("activation")))
    layer.keep_of = tuple(content["keep_of"]) if "keep_of" in content else None
    return layer
