"""What cost models need to know of a quantized model."""

from dataclasses import replace
from pathlib import Path

import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from ...core import Assignment, PrecisionSpace
from ...nn.precision import used_precisions
from ...plugin import MPQConfig, assignment_of
from ...plugin.architectures import architecture, class_of
from ...plugin.space import skeleton
from ...plugin.space import space_of as kept_or_made
from ...runs.files import SCORES, START


def space_of(model: nn.Module) -> tuple[PrecisionSpace, Assignment]:
    """The resolved space of a quantized model, packed or trainable, and the point of it that the model is; nested codes
    at the precision that is used.

    Raises:
        ValueError: when the model is not quantized by hf_mpq.
    """
    assignment, used = assignment_of(model), used_precisions(model)
    lowered = {
        name: replace(assignment.matrices[name], bits=(bits,) * len(assignment.matrices[name].bits))
        for name, bits in used.items()
    }
    return kept_or_made(model), replace(assignment, matrices={**assignment.matrices, **lowered})


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
    return config.resolve(skeleton(kind, plain, config)), load_file(folder / SCORES)
