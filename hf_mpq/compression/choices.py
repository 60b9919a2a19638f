"""What a call of `compress` asks for: budgets, candidates and the parts that choose and round."""

import copy
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from ..core import METHODS, Budget, Budgets, MethodSpec, Part, budgets_of
from ..nn import body_of, family_of
from ..outliers import OUTLIERS
from ..plugin.config import MPQConfig
from ..plugin.heads import is_latency, join_heads
from ..rounding import ROUNDERS
from ..search import ALLOCATORS, SCORERS

SLOTS = {"scorer": SCORERS, "allocator": ALLOCATORS, "rounding": ROUNDERS}
DEFAULT_CANDIDATES = (2, 3, 4, 8)
"""Without 0: what many pruned sub-groups do together is far more than their scores say; see docs/results."""
DEFAULT_TABLE_CANDIDATES = (2, 3, 4, 6, 8)
DEFAULT = MethodSpec(
    name="training-free",
    paper="our own choice of parts; docs/results has what each is worth",
    scorer="fisher",
    allocator="lagrangian",
    rounding="autoround",
)


def check_target(budget: Any, max_drop: float | None, evaluate: Callable | None) -> None:
    """Raise ValueError for two targets, or a drop that nothing measures."""
    if budget is not None and max_drop is not None:
        raise ValueError("give either a budget, such as '0.25x', or max_drop with evaluate, not both")
    if max_drop is not None and evaluate is None:
        raise ValueError("max_drop needs evaluate, a function from a model to a score")


def check_alike(budgets: list[Budgets]) -> None:
    """By default budgets in ms remove rows and heads, and the others choose bits: there is no one set of candidates."""
    if len({is_latency(one) for together in budgets for one in together}) > 1:
        raise ValueError(
            "budgets in ms and others choose among different things by default: give them in two calls, "
            "or a config with the candidates of both, such as MPQConfig(bits=(0, 4, 8))"
        )


def wanted_budgets(budget: Any) -> list[Budgets]:
    """What every wanted model meets."""
    if budget is None:
        return []
    return [budgets_of(one) or (Budget.parse(one),) for one in (budget if is_several(budget) else [budget])]


def is_several(budget: Any) -> bool:
    """Whether a model is wanted for each; what is in a tuple is for one."""
    return isinstance(budget, Iterable) and not isinstance(budget, str | tuple)


def config_for(config: MPQConfig | None, method: str | None, wanted: list[Budgets], model: nn.Module) -> MPQConfig:
    """The config to work with: the method's or the default candidates, tables opened where a budget counts them."""
    budgets = [one for together in wanted for one in together]
    if config is None:
        config = MPQConfig(method=method) if method is not None else default_config(budgets, model)
    elif method is not None and config.method != method:
        raise ValueError(
            f"method={method!r} and a config of method {config.method!r}; give only MPQConfig(method={method!r}, ...)"
        )
    if any(map(is_latency, budgets)):
        config = copy.deepcopy(config)
        join_heads(config, model)
    if config.embedding_bits != "auto" or not isinstance(config.bits, tuple) or config.nested:
        return config
    counted = any(one.kind in ("bytes", "ratio") and one.scope in ("model", "embedding") for one in budgets)
    return _with_open_table(config, model) if counted else config


def default_config(budgets: list[Budget], model: nn.Module) -> MPQConfig:
    """The default candidates; for milliseconds all at 8 bits, and feed-forward rows and whole heads removable."""
    family = family_of(model)
    if family is None or not any(map(is_latency, budgets)):
        return MPQConfig(bits=DEFAULT_CANDIDATES)
    names = family.names
    rules = {rf"\.{re.escape(names.up)}$": {"bits": [0, 8]}}
    if names.gate is not None:  # a row goes with its gate
        both = {"bits": [0, 8], "tie": r"\1 feed-forward"}
        rules = {rf"(.*)\.{re.escape(name)}$": both for name in names.feed_forward}
    if family.prunes_heads(body_of(model).config) and not family.relative_positions:
        for name in (names.query, names.key, names.value):
            rules[rf"(.*)\.{re.escape(name)}$"] = {"bits": [0, 8], "groups": "head", "tie": r"\1"}
    return MPQConfig(bits=8, rules=rules)


def _with_open_table(config: MPQConfig, model: nn.Module) -> MPQConfig:
    """The config with candidates for the word table, by far the largest one; the others stay at their fixed bits."""
    family = family_of(model)
    if family is None or not family.embeddings:
        return config
    opened = copy.deepcopy(config)
    opened.rules = {f"^{re.escape(family.embeddings[0])}$": {"bits": DEFAULT_TABLE_CANDIDATES}, **config.rules}
    return opened


def choice_of(
    default: MethodSpec, method: str | None, scorer, allocator, rounding, outliers, bias_correction
) -> MethodSpec:
    """The method's choices, or the default ones, with what was asked for on top, spelt as it is registered."""
    choice = METHODS[method] if method is not None else default
    for slot, given in (("scorer", scorer), ("allocator", allocator), ("rounding", rounding)):
        if given is not None:
            choice = replace(choice, **{slot: Part.of(given, SLOTS[slot], slot), f"{slot}_options": {}})
        elif getattr(choice, slot) is None:
            choice = replace(choice, **{slot: getattr(default, slot), f"{slot}_options": {}})
    if outliers is not None:
        rule = Part.of(outliers, what="outliers")
        outliers = Part("none") if rule.name.casefold() == "none" else Part.of(rule, OUTLIERS)
    changes = {"outliers": outliers, "bias_correction": bias_correction}
    return replace(choice, **{key: value for key, value in changes.items() if value is not None})
