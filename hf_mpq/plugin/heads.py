"""What a budget in milliseconds makes of a config: heads that are pruned as a whole."""

import re

from torch import nn

from ..core import Budget
from ..nn import body_of, family_of
from .fields import ConfigFields


def is_latency(budget: Budget) -> bool:
    """Whether a budget is in milliseconds."""
    return budget.kind == "latency"


def join_heads(config: ConfigFields, model: nn.Module) -> None:
    """Add rules to a config, before its own, that make a head of a layer one choice: its query, key and value rows only
    save time together. None where nothing is to be pruned, they are one matrix, or heads have to stay."""
    family, bits = family_of(model), config.bits
    prunes = config.assignment is None and isinstance(bits, tuple) and 0 in bits
    if prunes and family is not None and family.prunes_heads(body_of(model).config):
        names = (family.names.query, family.names.key, family.names.value)
        heads = {rf"(.*)\.{re.escape(name)}$": {"groups": "head", "tie": r"\1"} for name in names}
        config.rules = {**heads, **config.rules}
