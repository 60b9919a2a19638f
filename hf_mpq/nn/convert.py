"""Whole models: float to trainable, trainable to packed, and back, always in place."""

from collections.abc import Iterator

import torch
from torch import nn

from ..core import AttentionSpec, PrecisionSpace
from .attention import ATTENTION_NAME, AttentionQuantizers, QuantizedDropout
from .coupling import couple
from .embedding import MPQEmbedding, MPQTiedLinear
from .families import Family, family_of
from .folding import fold
from .linear import MPQLinear
from .matrix import QuantizedMatrix
from .naming import absolute_names, body_of
from .norm import MPQLayerNorm
from .packed import PackedEmbedding, PackedLayerNorm, PackedLinear, PackedMatrix, PackedTiedLinear
from .packing import pack_matrix, pack_norm, plain_layer


def convert(model: nn.Module, space: PrecisionSpace) -> nn.Module:
    """Replace the layers that `space` names by trainable quantized ones, in place; works on a meta skeleton too.

    Scales, gates and masks have no values yet: `initialise` sets them once the weights are there. Every layer is built
    before the first is replaced, so that an error leaves the model as it was.
    """
    if space.attention is not None:
        _check_operands(model, set(space.weights))
    for full, layer in list(_trainable_layers(model, space)):
        model.set_submodule(full, layer)
    _convert_tied(model)
    couple(model)
    if space.attention is not None:
        convert_attention(model, space.attention)
    return model


def _trainable_layers(model: nn.Module, space: PrecisionSpace) -> Iterator[tuple[str, nn.Module]]:
    """Full name and trainable twin of each layer that `space` names."""
    absolute = absolute_names(model)
    for name, spec in space.weights.items():
        full = absolute(name)
        build = MPQEmbedding.from_embedding if spec.kind == "embedding" else MPQLinear.from_linear
        yield full, build(model.get_submodule(full), spec)
    for name in space.norms:
        full = absolute(name)
        yield full, MPQLayerNorm.from_norm(model.get_submodule(full), space.norm_dtype, space.norm_precisions)


def tied_decoders(model: nn.Module, kinds: tuple[type, ...] = (MPQEmbedding, PackedEmbedding)) -> dict[str, str]:
    """Full name of each decoder whose weight is tied to an embedding of these kinds, with that embedding's name."""
    ties = getattr(model, "all_tied_weights_keys", None) or {}
    pairs = {
        target.removesuffix(".weight"): source.removesuffix(".weight")
        for target, source in ties.items()
        if target.endswith(".weight")
    }
    return {target: source for target, source in pairs.items() if isinstance(model.get_submodule(source), kinds)}


def _convert_tied(model: nn.Module) -> None:
    for target, source in tied_decoders(model).items():
        decoder = MPQTiedLinear.from_linear(model.get_submodule(target), model.get_submodule(source))
        model.set_submodule(target, decoder)


def convert_attention(model: nn.Module, spec: AttentionSpec) -> None:
    """Quantize the operands of the attention products in every layer.

    Raises:
        ValueError: when the model's family is unknown, so that its attention cannot be reached.
    """
    family, absolute = _attention_family(model), absolute_names(model)
    for prefix in family.layer_prefixes(model):
        name = absolute(f"{prefix}.{family.names.attention}")
        _quantize_attention(model.get_submodule(name), spec, family)
    body = body_of(model)
    if family.interface and body.config._attn_implementation != ATTENTION_NAME:
        body.attention_before_mpq = body.config._attn_implementation
        body.config._attn_implementation = ATTENTION_NAME


def _attention_family(model: nn.Module) -> Family:
    family = family_of(model)
    if family is None or not family.operands:
        raise ValueError(
            f"attention of {body_of(model).config.model_type!r} models cannot be quantized; leave attention_bits unset"
        )
    return family


def _check_operands(model: nn.Module, quantized: set[str]) -> None:
    """Raise ValueError when some layer's operands cannot be quantized; asked before anything is replaced."""
    family = _attention_family(model)
    operands = (family.names.query, family.names.key, family.names.value)
    needed = {f"{prefix}.{name}" for prefix in family.layer_prefixes(model) for name in operands}
    if not family.interface and not needed <= quantized:
        raise ValueError(
            "attention_bits needs quantized query, key and value projections in this family: give them bits, or leave "
            "attention_bits unset"
        )


def _quantize_attention(module: nn.Module, spec: AttentionSpec, family: Family) -> None:
    quantizers = AttentionQuantizers(spec)
    if family.interface:
        module.mpq_attention = quantizers
        return
    prefix = f"{family.names.attention}."
    operands = {"query": family.names.query, "key": family.names.key, "value": family.names.value}
    for role, name in operands.items():
        module.get_submodule(name.removeprefix(prefix)).output_quantizer = getattr(quantizers, role)
    module.dropout = QuantizedDropout.from_dropout(module.dropout, quantizers.probabilities)


def initialise(model: nn.Module) -> nn.Module:
    """Set gates, masks, folds and scales from the loaded float weights, in place."""
    layers = [module for module in model.modules() if isinstance(module, QuantizedMatrix)]
    for layer in layers:
        layer.initialise()
    for module in model.modules():
        if isinstance(module, MPQLayerNorm):
            module.calibrate()
        elif isinstance(module, MPQLinear):
            for quantizer in module.activation_quantizers():
                quantizer.reset()
        elif isinstance(module, AttentionQuantizers):
            for quantizer in module.children():
                quantizer.reset()
        elif isinstance(module, QuantizedDropout):
            module.quantizer.reset()
    if not any(layer.program.gate.searching for layer in layers):
        fold(model)
    for layer in layers:
        layer.calibrate()
    return model


def refresh(model: nn.Module) -> None:
    """Look again at buffers that were loaded from a checkpoint."""
    for module in model.modules():
        if isinstance(module, QuantizedMatrix):
            module.program.refresh()


def pack_modules(model: nn.Module) -> nn.Module:
    """Replace every trainable layer by its packed twin, in place; when one cannot be packed, nothing is replaced.

    Raises:
        ValueError: when a range of activations was never observed, or attention no longer runs through its quantizers.
    """
    _check_attention(model)
    decoders, twins = tied_decoders(model), {}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedMatrix):
            twins[name] = pack_matrix(module)
        elif isinstance(module, MPQLayerNorm):
            twins[name] = pack_norm(module)
        elif isinstance(module, AttentionQuantizers | QuantizedDropout):
            twins[name] = module.frozen()
    for name, twin in twins.items():
        model.set_submodule(name, twin)
    tie_packed(model, decoders)
    return model


def _check_attention(model: nn.Module) -> None:
    used = any(isinstance(module, AttentionQuantizers) for module in model.modules())
    kind = body_of(model).config._attn_implementation
    if used and kind != ATTENTION_NAME:
        raise ValueError(
            f"attention_bits is set, but attention runs as {kind!r}, past the quantizers: "
            f"call model.set_attn_implementation({ATTENTION_NAME!r})"
        )


def tie_packed(model: nn.Module, decoders: dict[str, str]) -> None:
    """Make decoders read their packed table, and forget the ties: a table of codes is no parameter to tie."""
    for target, source in decoders.items():
        decoder = PackedTiedLinear(model.get_submodule(source), model.get_submodule(target).bias)
        model.set_submodule(target, decoder.train(model.training))
        model.all_tied_weights_keys = {
            key: value for key, value in model.all_tied_weights_keys.items() if key != f"{target}.weight"
        }


def dequantize_modules(
    model: nn.Module, dtype: torch.dtype | None = None, masters: bool = False, masked: bool = False
) -> nn.Module:
    """Replace every quantized layer by a plain one, in place: with the values it uses, or with its float masters, which
    may be `masked`."""
    if any(isinstance(module, PackedLinear) and module.compacted for module in model.modules()):
        raise ValueError("a compacted model has smaller matrices than its config; load the packed folder again first")
    decoders = {
        name: module for name, module in model.named_modules() if isinstance(module, MPQTiedLinear | PackedTiedLinear)
    }
    owners = {name: module.embedding for name, module in decoders.items()}
    places = {id(module): name for name, module in model.named_modules()}
    kinds = (QuantizedMatrix, PackedMatrix, MPQLayerNorm, PackedLayerNorm)
    for name, module in list(model.named_modules()):
        if isinstance(module, kinds):
            plain = plain_layer(module, masters, masked)
            model.set_submodule(name, plain if dtype is None else plain.to(dtype))
    for name, decoder in decoders.items():
        source = places[id(owners[name])]
        _restore_decoder(model, name, decoder.bias, source)
    _restore_attention(model)
    return model


def _restore_decoder(model: nn.Module, name: str, bias: nn.Parameter | None, source: str) -> None:
    table = model.get_submodule(source).weight
    plain = nn.Linear(table.shape[1], table.shape[0], bias is not None, device="meta")
    plain.weight, plain.bias = table, bias
    model.set_submodule(name, plain.train(model.training))
    model.all_tied_weights_keys = {**model.all_tied_weights_keys, f"{name}.weight": f"{source}.weight"}


def _restore_attention(model: nn.Module) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedDropout):
            model.set_submodule(name, nn.Dropout(module.p).train(module.training))
        elif isinstance(module, AttentionQuantizers):
            parent, _, child = name.rpartition(".")
            delattr(model.get_submodule(parent), child)
            body = body_of(model)
            body.config._attn_implementation = getattr(body, "attention_before_mpq", "eager")
