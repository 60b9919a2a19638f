"""Which models the kernel can run, as far as can be said at once."""

from typing import Any

from torch import nn

from ...nn import PackedLinear, family_of
from ...nn.naming import absolute_names
from . import structures
from .forms import FORMS

NONLINEARITIES = {
    "gelu": structures.GELU,
    "gelu_new": structures.GELU_TANH,
    "gelu_pytorch_tanh": structures.GELU_TANH,
    "relu": structures.RELU,
}


class Unfit(Exception):
    """Why the kernel cannot run a model."""


def unfit(model: nn.Module, body: nn.Module) -> str | None:
    """Why the kernel cannot run a model, as far as can be said at once; None where it seems to."""
    config = body.config
    if config.model_type not in FORMS:
        return f"models of type {config.model_type!r} are not among those that it runs: {', '.join(FORMS)}"
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        return "it is a decoder"
    if getattr(config, "use_task_id", False):
        return "its texts have tasks"
    if getattr(config, "conv_kernel_size", 0) > 0 and FORMS[config.model_type].disentangled is not None:
        return "it has a convolution"
    if FORMS[config.model_type].rotary is not None and _turns_by_length(config):
        return "how far its positions are turned depends on the text's length"
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        return "its positions are relative"
    activation = getattr(config, family_of(model).activation)
    if activation not in NONLINEARITIES:
        return f"its activation is {activation!r}, and it knows {', '.join(NONLINEARITIES)}"
    return _without_integers(model)


def _without_integers(model: nn.Module) -> str | None:
    """Which matrices of the encoder's layers keep it from one call."""
    family, absolute = family_of(model), absolute_names(model)
    names = [
        name
        for prefix in family.layer_prefixes(model)
        for name in (f"{prefix}.{one}" for one in family.names.matrices if one not in family.names.extra)
        if not multiplies(model.get_submodule(absolute(name)))
    ]
    if not names:
        return None
    few = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"not both weight and input have integers, or the output is quantized too: {few}"


def multiplies(layer: nn.Module) -> bool:
    """Whether both a layer's input and its weight have integers."""
    return isinstance(layer, PackedLinear) and layer.output_quantizer is None and layer.has_integers()


def _turns_by_length(config: Any) -> bool:
    kinds = [parameters.get("rope_type", "default") for parameters in config.rope_parameters.values()]
    return any(kind in ("dynamic", "longrope") for kind in kinds)
