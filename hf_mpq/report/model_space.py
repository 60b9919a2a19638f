"""What cost models need to know of a quantized model."""

import copy

import torch
from torch import nn
from transformers.initialization import no_init_weights

from ..core import Assignment, PrecisionSpace
from ..integrations import MPQConfig, assignment_of
from ..integrations.shapes import apply_shapes


def space_of(model: nn.Module) -> tuple[PrecisionSpace, Assignment]:
    """The resolved space of a quantized model, packed or trainable, and the point of it that the model is.

    Raises:
        ValueError: when the model is not quantized by hf_mpq.
    """
    assignment = assignment_of(model)
    config = copy.deepcopy(model.config.quantization_config)
    if config.storage != "packed":
        return config.resolve(model), assignment
    config.storage, config.packed, config.assignment = "trainable", {}, assignment.to_dict()
    return config.resolve(_skeleton(model, config)), assignment


def _skeleton(model: nn.Module, config: MPQConfig) -> nn.Module:
    """The float model's shapes, without weights."""
    plain = copy.deepcopy(model.config)
    del plain.quantization_config
    with torch.device("meta"), no_init_weights():
        skeleton = type(model)(plain)
    apply_shapes(skeleton, config.shapes)
    return skeleton
