"""A model around one that was quantized alone: before it is saved, its own configuration tells of that."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel

from ..nn import MPQLayerNorm
from ..nn.given import in_python
from ..nn.matrix import QuantizedMatrix
from ..nn.naming import body_name, part_name
from ..nn.packed import PackedModule
from .adapters import check_without_adapters
from .saving import attach, detach

_KINDS = (QuantizedMatrix, MPQLayerNorm, PackedModule)
_TOLD = ("quantization_config", "_is_quantized")


def settle(model: PreTrainedModel) -> None:
    """Make a model's config say what the model is, whichever part of it was quantized, packed or dequantized alone.

    Raises:
        ValueError: a config cannot say it: two parts were quantized alone, some layers are packed and others are not,
            the quantized part shares weights with the rest, or there are adapters in the model.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, _KINDS)}
    known = getattr(model, "quantization_method", None) == "mpq"
    config = getattr(model.config, "quantization_config", None)
    if not layers:
        if known:
            _forget(model)
        return
    check_without_adapters(model)
    if not known or part_name(model):
        config = _adopt(model, layers)
    packed = config.storage == "packed"
    other = next((name for name, layer in layers.items() if isinstance(layer, PackedModule) != packed), None)
    if other is not None:
        raise ValueError(
            f"{other} is {'trainable' if packed else 'packed'} and the rest of this {type(model).__name__} is not: "
            f"call hf_mpq.{'pack' if packed else 'unpack'} on the whole model instead of a part"
        )
    model.hf_quantizer.quantization_config = config


def _forget(model: PreTrainedModel) -> None:
    detach(model)
    for name in _TOLD:
        model.config.__dict__.pop(name, None)


def _adopt(model: PreTrainedModel, layers: Mapping[str, nn.Module]):
    """Give a model the quantizer of the part that was quantized alone, with the name of that part."""
    name = _part_with(model, layers)
    if name is None:
        _refuse(model, next(iter(layers)))
    part = model.get_submodule(name)
    _check_ties(model, name)
    _check_names(model, name, body_name(part))
    config = copy.copy(part.config.quantization_config)
    config.inside = ".".join(filter(None, (name, part_name(part))))
    known = getattr(model, "hf_quantizer", None)
    attach(model, known or type(part.hf_quantizer)(config, pre_quantized=False), config)
    return config


def _part_with(model: PreTrainedModel, layers: Mapping[str, nn.Module]) -> str | None:
    """The outermost quantized model inside, where every quantized layer lies in it."""
    parts = (
        name
        for name, module in model.named_modules()
        if name and isinstance(module, PreTrainedModel) and getattr(module, "quantization_method", None) == "mpq"
    )
    first = next(parts, None)
    return first if first is not None and all(name.startswith(f"{first}.") for name in layers) else None


def _check_ties(model: PreTrainedModel, part: str) -> None:
    """Raise ValueError when a quantized layer shares its weight with one outside; of those inside, the part knows."""
    ties = dict(getattr(model, "all_tied_weights_keys", None) or {})
    inside = getattr(model.get_submodule(part), "all_tied_weights_keys", None) or {}
    crossing = {ends for ends in ties.items() if len({name.startswith(f"{part}.") for name in ends}) > 1}
    owners = {name.rpartition(".")[0] for ends in crossing for name in ends}
    if any(isinstance(model.get_submodule(name), _KINDS) for name in owners):
        _refuse(model, part)
    kept = {ends for ends in ties.items() if ends in crossing or not ends[0].startswith(f"{part}.")}
    known = {f"{part}.{target}": f"{part}.{source}" for target, source in inside.items()}
    model.all_tied_weights_keys = dict(kept) | known


def _check_names(model: PreTrainedModel, part: str, body: str) -> None:
    """Raise ValueError when something outside the part has the name of something inside it."""
    inside = {name.removeprefix(f"{part}.") for name in model.state_dict() if name.startswith(f"{part}.")}
    inside |= {name.removeprefix(f"{body}.") for name in inside if body}
    if any(name in inside for name in model.state_dict() if not name.startswith(f"{part}.")):
        _refuse(model, part)


def _refuse(model: PreTrainedModel, inside: str) -> None:
    raise ValueError(
        f"{inside} of this {type(model).__name__} is quantized, and the model around it would be loaded without "
        f"knowing: dequantize that part and call hf_mpq.quantize on the whole model (modules_to_not_convert leaves "
        f"parts of it float), or save {in_python(inside)} alone and the rest of the state dict beside it"
    )


@contextmanager
def told_once(model: PreTrainedModel) -> Iterator[None]:
    """While this holds, only the model's own config tells of the quantization, not those of models inside."""
    configs = {
        id(module.config): module.config
        for module in model.modules()
        if isinstance(module, PreTrainedModel) and module.config is not model.config
    }
    kept = [
        (config, {key: vars(config).pop(key) for key in _TOLD if key in vars(config)}) for config in configs.values()
    ]
    try:
        yield
    finally:
        for config, fields in kept:
            vars(config).update(fields)
