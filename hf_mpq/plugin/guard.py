"""A model around quantized parts is saved only where its own configuration tells of them."""

import functools
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..nn import MPQLayerNorm
from ..nn.matrix import QuantizedMatrix
from ..nn.packed import PackedModule


def check_is_model(model: nn.Module) -> None:
    """Raise ValueError when it is no model of transformers, naming those inside."""
    if isinstance(model, PreTrainedModel):
        return
    inside = [name for name, module in model.named_modules() if isinstance(module, PreTrainedModel)]
    way = f"quantize model.{inside[0]}, and save that with its own save_pretrained" if inside else "give the one inside"
    raise ValueError(
        f"{type(model).__name__} is no PreTrainedModel, so it has no config to note the quantization in: {way}"
    )


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


def _check_known(model: PreTrainedModel) -> None:
    if getattr(model, "quantization_method", None) == "mpq" or getattr(model, "_hf_peft_config_loaded", False):
        return
    inside = quantized_inside(model)
    if inside is not None:
        raise ValueError(
            f"{inside} of this {type(model).__name__} is quantized, and the model around it would be loaded without "
            f"knowing: dequantize that part and call hf_mpq.quantize on the whole model (modules_to_not_convert leaves "
            f"parts of it float), or save model.{inside} alone and the rest of the state dict beside it"
        )


_save_pretrained = getattr(PreTrainedModel.save_pretrained, "unguarded", PreTrainedModel.save_pretrained)


@functools.wraps(_save_pretrained)
def _guarded(self: PreTrainedModel, *args: Any, **options: Any) -> Any:
    _check_known(self)
    return _save_pretrained(self, *args, **options)


_guarded.unguarded = _save_pretrained
PreTrainedModel.save_pretrained = _guarded
