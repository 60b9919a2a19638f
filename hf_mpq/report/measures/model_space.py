"""What cost models need to know of a quantized model."""

import copy
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from ...core import Assignment, PrecisionSpace
from ...nn.construction import class_from_config
from ...nn.shapes import apply_shapes
from ...plugin import MPQConfig, assignment_of
from ...plugin.architectures import architecture, class_of
from ...runs.files import SCORES, START


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
    return config.resolve(_skeleton(class_from_config(model) or type(model), model.config, config)), assignment


def scored_space(run_folder: str | Path) -> tuple[PrecisionSpace, dict[str, Tensor]] | None:
    """The space that a run searched, and its training-free scores; None where the run did not need scores.

    Raises:
        OSError: when it trained a model whose class transformers does not have.
    """
    folder = Path(run_folder)
    if not (folder / SCORES).exists():
        return None
    plain = transformers.AutoConfig.from_pretrained(folder / START)
    config = MPQConfig.from_dict(plain.quantization_config)
    kind = class_of(plain)
    if kind is None:
        raise OSError(
            f"{folder} trained the class {architecture(plain)}, which transformers does not have, so its "
            "space cannot be made again: leave the run out"
        )
    return config.resolve(_skeleton(kind, plain, config)), load_file(folder / SCORES)


def _skeleton(kind: type[nn.Module], plain: transformers.PretrainedConfig, config: MPQConfig) -> nn.Module:
    """The float model's shapes, without weights."""
    plain = copy.deepcopy(plain)
    del plain.quantization_config
    with torch.device("meta"), no_init_weights():
        skeleton = kind(plain)
    if config.inside:
        skeleton.config.quantization_config = config
    apply_shapes(skeleton, config.shapes)
    return skeleton
