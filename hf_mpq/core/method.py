"""A published system as data: one choice for each slot."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .registry import Registry


@dataclass(frozen=True)
class MethodSpec:
    """One choice for each slot; what is left empty is the default of the slot.

    Attributes:
        name: the registered name.
        paper: authors, venue and year.
        config: fields of `MPQConfig` that differ from its defaults.
        scorer, allocator, rounding: registered names.
        scorer_options, allocator_options, rounding_options: keyword arguments of each.
        outliers: registered rule against outliers of activations; None for none.
        bias_correction: whether biases are corrected after rounding.
        deviations: what is reconstructed or done in another way than in the paper, in words.
    """

    name: str
    paper: str
    config: Mapping[str, Any] = field(default_factory=dict)
    scorer: str | None = None
    scorer_options: Mapping[str, Any] = field(default_factory=dict)
    allocator: str | None = None
    allocator_options: Mapping[str, Any] = field(default_factory=dict)
    rounding: str | None = None
    rounding_options: Mapping[str, Any] = field(default_factory=dict)
    outliers: str | None = None
    bias_correction: bool = False
    deviations: tuple[str, ...] = ()


METHODS: Registry[MethodSpec] = Registry("method")
