"""A model around quantized parts is saved only where its own configuration tells of them."""

import functools
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..nn import MPQLayerNorm
from ..nn.given import check_is_module, in_python
from ..nn.matrix import QuantizedMatrix
from ..nn.packed import PackedModule
from .config import MPQConfig


def check_is_model(model: nn.Module, verb: str = "quantize") -> None:
    """Raise ValueError when it is no model of transformers, naming those inside; `verb` is what was to be done."""
    check_is_module(model)
    if isinstance(model, PreTrainedModel):
        return
    inside = [name for name, module in model.named_modules() if isinstance(module, PreTrainedModel)]
    way = f"{verb} {in_python(inside[0])}" if inside else "give the one inside"
    if inside and verb != "export":
        way += ", and save that with its own save_pretrained"
    raise ValueError(
        f"{type(model).__name__} is no PreTrainedModel, so it has no config that notes the quantization: {way}"
    )


def check_is_config(config: Any) -> None:
    """Raise ValueError when it is no MPQConfig."""
    if not isinstance(config, MPQConfig):
        raise ValueError(f"the config must be an MPQConfig, for example hf_mpq.MPQConfig(bits=4), got {config!r:.60}")


def quantized_inside(model: nn.Module) -> str | None:
    """Name of the first part of a model that is quantized, the largest first; None where there is none."""
    kinds = (QuantizedMatrix, MPQLayerNorm, PackedModule)
    return next(
        (
            name
            for name, module in model.named_modules()
            if name and (isinstance(module, kinds) or getattr(module, "quantization_method", None) == "mpq")
        ),
        None,
    )


def quantized_model_inside(model: nn.Module) -> str | None:
    """Name of the first model of transformers inside that is quantized as a whole; None where there is none."""
    models = ((name, module) for name, module in model.named_modules() if isinstance(module, PreTrainedModel))
    return next((name for name, one in models if name and isinstance(_config_in(one), MPQConfig)), None)


def _config_in(model: PreTrainedModel) -> Any:
    return getattr(model.config, "quantization_config", None)


def _check_known(model: PreTrainedModel) -> None:
    if getattr(model, "quantization_method", None) == "mpq" or getattr(model, "_hf_peft_config_loaded", False):
        return
    inside = quantized_inside(model)
    if inside is not None:
        raise ValueError(
            f"{inside} of this {type(model).__name__} is quantized, and the model around it would be loaded without "
            f"knowing: dequantize that part and call hf_mpq.quantize on the whole model (modules_to_not_convert leaves "
            f"parts of it float), or save {in_python(inside)} alone and the rest of the state dict beside it"
        )


_save_pretrained = getattr(PreTrainedModel.save_pretrained, "unguarded", PreTrainedModel.save_pretrained)


@functools.wraps(_save_pretrained)
def _guarded(self: PreTrainedModel, *args: Any, **options: Any) -> Any:
    _check_known(self)
    return _save_pretrained(self, *args, **options)


_guarded.unguarded = _save_pretrained
PreTrainedModel.save_pretrained = _guarded
