"""A folder that holds every tensor under the model's own name is loaded by those names: the table of what each model of
transformers was once called, which takes longer to make than such a folder to read, is not asked for."""

import functools
from typing import Any

from torch import nn
from transformers import modeling_utils

_conversions = getattr(
    modeling_utils.get_model_conversion_mapping, "asked", modeling_utils.get_model_conversion_mapping
)


@functools.wraps(_conversions)
def _needed(model: nn.Module, key_mapping: dict | None = None, hf_quantizer: Any = None, *args: Any, **kwargs: Any):
    if key_mapping is None and getattr(hf_quantizer, "named_alike", False):
        return []
    return _conversions(model, key_mapping, hf_quantizer, *args, **kwargs)


_needed.asked = _conversions
modeling_utils.get_model_conversion_mapping = _needed
