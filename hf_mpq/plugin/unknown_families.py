"""What is said of a model whose family is not known, of which only the linear layers of the encoder are quantized."""

import re
from collections import Counter

from torch import nn
from transformers.utils import logging

from ..nn import body_of, relative_names
from ..nn.naming import encoders_inside

logger = logging.get_logger(__name__)
_NAMED = 4
"""How many of the parts that stay float a warning names."""


def warn_unknown(model: nn.Module, converted: set[str]) -> None:
    """Say once what little of a model of an unknown family is quantized, and what that leaves."""
    relative = relative_names(model)
    floats: Counter[str] = Counter()
    numbers = {True: 0, False: 0}  # of parameters, in a quantized layer or not
    for full, parameter in model.named_parameters():
        name = relative(full)
        owner = name.rpartition(".")[0]
        numbers[owner in converted] += parameter.numel()
        if owner not in converted:
            floats[re.sub(r"(?<![^.])\d+(?![^.])", "*", owner or name)] += parameter.numel() * parameter.element_size()
    stay = sum(floats.values())
    of_file = {bits: stay / (stay + numbers[True] * bits / 8) for bits in (8, 4)}
    names = [name for name, _ in floats.most_common(_NAMED)]
    more = f" and {len(floats) - _NAMED} more" if len(floats) > _NAMED else ""
    logger.warning_once(
        f"{_unknown(model)}: only linear layers inside numbered encoder layers are quantized, no embeddings, and "
        f"pruned rows are not folded away. {numbers[False] / sum(numbers.values()):.0%} of the parameters stay float, "
        f"about {of_file[8]:.0%} of a file with the others at 8 bits, {of_file[4]:.0%} at 4: {', '.join(names)}{more}"
    )


def _unknown(model: nn.Module) -> str:
    inside = encoders_inside(model)
    if len(inside) > 1:
        return f"this {type(model).__name__} has several encoders, {' and '.join(inside)}"
    return f"{body_of(model).config.model_type!r} is not a known family"
