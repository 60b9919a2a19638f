"""`save_pretrained` of every model asks first whether something inside is quantized, and whether its config says so."""

import functools
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..nn import MPQLayerNorm
from ..nn.given import check_is_module, in_python
from ..nn.matrix import QuantizedMatrix
from ..nn.packed import PackedModule
from .adapters import check_without_adapters
from .around import settle, told_once
from .config import MPQConfig


def check_is_model(model: nn.Module, verb: str = "quantize") -> None:
    """Raise ValueError when it is no model of transformers, naming those inside, or has adapters; `verb` is what was to
    be done."""
    check_is_module(model)
    check_without_adapters(model)
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


_save_pretrained = getattr(PreTrainedModel.save_pretrained, "unguarded", PreTrainedModel.save_pretrained)


@functools.wraps(_save_pretrained)
def _guarded(self: PreTrainedModel, *args: Any, **options: Any) -> Any:
    if getattr(self, "_hf_peft_config_loaded", False):
        return _save_pretrained(self, *args, **options)
    known = getattr(self, "quantization_method", None) == "mpq"
    settle(self)
    if not known and getattr(self, "quantization_method", None) == "mpq":
        return self.save_pretrained(*args, **options)  # all of it or nothing, from now on
    with told_once(self):
        return _save_pretrained(self, *args, **options)


_guarded.unguarded = _save_pretrained
PreTrainedModel.save_pretrained = _guarded
