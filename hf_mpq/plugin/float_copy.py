"""The float model behind a trainable quantized one."""

import copy

from torch import nn

from ..nn import dequantize_modules, derive
from .saving import detach


def float_copy(model: nn.Module, masked: bool = False) -> nn.Module:
    """A plain float copy of a trainable model with its float masters, not rounded, in eval mode; a float model is just
    copied.

    Args:
        masked: whether what the masks hold at zero is zero; otherwise it has the value that it had in training.

    Raises:
        ValueError: when the float weights are not there any more: the model is packed, or rows were folded away.
    """
    _check(model)
    return as_float(copy.deepcopy(model), masked)


def as_float(model: nn.Module, masked: bool = False) -> nn.Module:
    """`float_copy` without the copy: in place; returns the model."""
    _check(model)
    if getattr(model.config, "quantization_config", None) is None:
        return model.eval()
    dequantize_modules(model, masters=True, masked=masked)
    for name in ("quantization_config", "_is_quantized", "_pre_quantization_dtype"):
        model.config.__dict__.pop(name, None)
    detach(model)
    return model.eval()


def _check(model: nn.Module) -> None:
    config = getattr(model.config, "quantization_config", None)
    if config is None:
        return
    if config.storage == "packed":
        raise ValueError("a packed model has no float weights: give the float model itself")
    if config.assignment is not None and any(0 in one.bits for one in derive(model).matrices.values()):
        raise ValueError(
            "pruned rows of this model were folded away, so its weights are not those of the float model: "
            "give the float model itself"
        )
