"""The fields of a config, with what is derived from them, each checked when it is written."""

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..core import METHODS, Assignment, Budget, Budgets, Part, Written, budgets_of, checked_patterns
from ..format import FORMAT_VERSION, PackedFormatError, check_version
from .config_checks import (
    SLOTS,
    check_one_mask,
    check_pattern,
    checked_budget,
    checked_groups,
    checked_reduction,
    checked_rules,
    checked_transforms,
    registered,
    separated,
    whole_numbers,
)
from .order import put_in_order

RULE_KEYS = (
    "bits",
    "groups",
    "activation_bits",
    "quantizer",
    "quantizer_options",
    "gate",
    "gate_options",
    "source",
    "source_options",
    "mask",
    "mask_options",
    "patterns",
    "transforms",
    "tie",
    "low_rank",
)
DEFAULT_TABLE_BITS = 8
OF_WEIGHTS = "weights"
"""What `activation_bits` says where an input has the bits of the matrix that reads it."""
OPTIONAL = frozenset(
    (
        "method",
        "assignment",
        "resolved",
        "input_affine",
        "shapes",
        "precision",
        "packed",
        "origin",
        "inside",
        "patterns",
        "transforms",
        "order",
        "shape",
    )
)
"""Fields that are not written where they are empty."""
_STORAGES = ("trainable", "packed")


@dataclass
class ConfigFields:
    """What `MPQConfig` holds; its docstring says what each field means."""

    method: str | None = None
    bits: int | tuple[int, ...] = 4
    groups: int | str = 128
    activation_bits: int | tuple[int, ...] | str | None = 8
    embedding_bits: int | tuple[int, ...] | str | None = "auto"
    projection_bits: int | None = 8
    attention_bits: int | None = None
    assignment: Any = None
    budget: str | float | Budget | Sequence[str | float | Budget] | None = None
    quantizer: Written = "symmetric"
    quantizer_options: dict = field(default_factory=dict)
    gate: Written | None = None
    gate_options: dict = field(default_factory=dict)
    source: Written = "float-master"
    source_options: dict = field(default_factory=dict)
    mask: Written | None = None
    mask_options: dict = field(default_factory=dict)
    patterns: Sequence[str] = ()
    transforms: dict[str, dict] = field(default_factory=dict)
    nested: bool = False
    switchable_norms: bool = False
    activation: Written = "dynamic-token"
    activation_options: dict = field(default_factory=dict)
    modules_to_not_convert: list[str] | None = None
    rules: dict[str, dict] = field(default_factory=dict)
    order: dict[str, list[str]] = field(default_factory=dict)
    scale_dtype: str = "float16"
    float_dtype: str = "float16"
    storage: str = "trainable"
    resolved: list[str] = field(default_factory=list)
    low_rank: int = 0
    input_affine: dict[str, list[str]] = field(default_factory=dict)
    shapes: dict[str, list[int]] = field(default_factory=dict)
    precision: dict[str, int] = field(default_factory=dict)
    packed: dict = field(default_factory=dict)
    shape: Any = None
    origin: dict = field(default_factory=dict)
    inside: str = ""
    format_version: int = FORMAT_VERSION
    quant_method: str = "mpq"

    def __new__(cls, *args, **kwargs):
        config = super().__new__(cls)
        if args or kwargs:  # a copy is made without
            config._given = {*kwargs, *[f.name for f in fields(cls)[: len(args)]]}
        return config

    def __post_init__(self):
        check_version(self.format_version)
        given = {*self.__dict__.pop("_given", ())}
        given |= self._separate()
        if self.method is not None:
            self._take_from_method(given)
        self.check()

    def check(self) -> None:
        """Spell every field as it is documented; raises ValueError for one that is out of range. A config may have been
        changed since it was made."""
        self.bits = _checked_bits(self.bits)
        self.embedding_bits = _checked_table_bits(self.embedding_bits)
        self.assignment = _assignment_dict(self.assignment)
        if self.storage not in _STORAGES:
            raise ValueError(f"storage must be one of {_STORAGES}, got {self.storage!r}")
        if self.storage == "packed" and not self.packed:
            raise PackedFormatError("packed storage needs its table of tensors, which hf_mpq.pack(model) writes")
        if self.storage != "packed":  # which needs none of them
            self._check_names()
        for name in ("scale_dtype", "float_dtype"):
            if getattr(self, name) not in ("float16", "float32"):
                raise ValueError(f"{name} must be 'float16' or 'float32', got {getattr(self, name)!r}")
        self.activation_bits = _checked_input_bits(self.activation_bits)
        _check_range("attention_bits", self.attention_bits, 2)
        _check_range("projection_bits", self.projection_bits, 1)
        self.rules = checked_rules(self.rules, RULE_KEYS, self.storage != "packed")
        self.patterns = checked_patterns(self.patterns)
        check_one_mask(self.mask, self.patterns, "the config")
        self.transforms = {**self.transforms}
        put_in_order(self.rules, self.transforms, self.order)
        self.order = {}
        for options in self.rules.values():
            if options.get("bits") is not None:
                _checked_bits(options["bits"])
            _checked_input_bits(options.get("activation_bits"))
        self.groups = checked_groups(self.groups)
        for rank in (self.low_rank, *(options.get("low_rank", 0) for options in self.rules.values())):
            if isinstance(rank, bool) or not isinstance(rank, int) or rank < 0:
                raise ValueError(f"low_rank must be a whole number from 0, got {rank!r}")
        for pattern, parts in self.input_affine.items():
            check_pattern("input_affine's pattern", pattern)
            if isinstance(parts, str) or not set(parts) <= {"scale", "shift"}:
                raise ValueError(f"input_affine of {pattern!r} must list 'scale', 'shift' or both, got {parts!r}")
        names = self.modules_to_not_convert
        if isinstance(names, str) or any(not isinstance(one, str) for one in names or ()):
            raise ValueError(f"modules_to_not_convert must be a list of names, got {names!r}")
        self.budget = checked_budget(self.budget)
        self.shape = None if self.shape is None else checked_reduction(self.shape).to_dict()
        for name, bits in self.precision.items():
            _check_range(f"precision of {name}", bits, 1)
        if self.nested and isinstance(self.bits, int):
            raise ValueError("nested=True needs several precisions, for example bits=(2, 4, 8)")
        if self.nested and 0 in self.bits:
            raise ValueError("nested precisions share one set of codes, so none of them can be 0 (pruned)")
        if self.nested and self.gate_name != "switch" and self.storage != "packed":
            raise ValueError(
                f"gate={self.gate_name!r} chooses precisions, and nested ones are all kept: leave out nested=True, or "
                "take method='vertical'"
            )
        if self.quantizer == "nested" and not self.nested:
            raise ValueError("quantizer='nested' is chosen by nested=True with several bits")
        if self.switchable_norms and not self.nested:
            raise ValueError("switchable_norms needs nested=True: it gives each nested precision its own parameters")
        if self.gate == "fixed" and not isinstance(self.bits, int) and self.assignment is None:
            raise ValueError("gate='fixed' needs one precision, bits=4 for example, or an assignment")

    def _check_names(self) -> None:
        """Spell registered names as they are registered, and check their options."""
        for name, value in registered(vars(self), {slot: getattr(self, slot) for slot in SLOTS}).items():
            setattr(self, name, value)
        applying = {"quantizer": self.weight_quantizer, **({"gate": self.gate_name} if self.assignment is None else {})}
        registered(vars(self), applying)
        self.transforms = checked_transforms(self.transforms)

    def _separate(self) -> set[str]:
        """Keep name and options of parts in two fields, whose names are returned."""
        found = separated(vars(self), SLOTS)
        for name, value in found.items():
            setattr(self, name, value)
        return set(found)

    def _take_from_method(self, given: Collection[str]) -> None:
        """Set every field that was not given to the method's; a saved config has them all, and needs no method."""
        complete = {f.name for f in fields(self)} - OPTIONAL <= set(given)
        if self.method not in METHODS and complete:
            return
        self.method = METHODS.name_of(self.method)
        own = {} if complete else METHODS[self.method].config
        own = {**own, **separated(own, own)}
        others = {f"{slot}_options" for slot in SLOTS if slot in given and getattr(self, slot) != own.get(slot)}
        for name, value in own.items():
            if name not in given and name not in others:  # options are those of the method's part alone
                setattr(self, name, copy.deepcopy(value))

    def part(self, slot: str) -> Part | None:
        """What was chosen for `"quantizer"`, `"gate"`, `"source"`, `"mask"` or `"activation"`, with its options."""
        name = getattr(self, slot)
        return name if name is None else Part(name, **getattr(self, f"{slot}_options"))

    @property
    def budgets(self) -> Budgets:
        """What the model meets, all of it at once; what is below a config sees these, and no text."""
        return budgets_of(self.budget)

    @property
    def table_bits(self) -> int | tuple[int, ...] | None:
        """Bits, or candidates, of embedding tables; None leaves them float."""
        return DEFAULT_TABLE_BITS if self.embedding_bits == "auto" else self.embedding_bits

    @property
    def searches_inputs(self) -> bool:
        """Whether bits of inputs are searched."""
        several = any(isinstance(bits, tuple | list) and len(bits) > 1 for bits in self._input_bits)
        return several and not (self.assignment or {}).get("activation_bits")

    @property
    def least_input_bits(self) -> int:
        """The fewest that a quantized input may get, where the config alone says it; 8 where all are float."""
        of_weights = self.bits if isinstance(self.bits, tuple) else (self.bits,)
        given = (of_weights if bits == OF_WEIGHTS else whole_numbers(bits) or () for bits in self._input_bits)
        return max(2, min((one for several in given for one in several), default=8))

    @property
    def _input_bits(self) -> list:
        return [self.activation_bits, *(options.get("activation_bits") for options in self.rules.values())]

    @property
    def weight_quantizer(self) -> str:
        """The registered weight quantizer that applies."""
        return "nested" if self.nested else self.quantizer

    @property
    def gate_name(self) -> str:
        """The registered gate that applies."""
        if self.gate is not None:
            return self.gate
        if self.nested:
            return "switch"
        return "fixed" if isinstance(self.bits, int) or self.assignment is not None else "softmax"


def _checked_bits(bits: Any) -> int | tuple[int, ...]:
    values = whole_numbers(bits)
    if values is None or any(not 0 <= one <= 8 for one in values):
        raise ValueError(f"bits must be whole numbers from 0 (pruned) to 8, got {bits!r}")
    return tuple(sorted(set(values))) if isinstance(bits, Iterable) else values[0]


def _checked_table_bits(bits: Any) -> int | tuple[int, ...] | str | None:
    if bits is None or bits == "auto":
        return bits
    values = whole_numbers(bits)
    if values is None or any(not 1 <= one <= 8 for one in values):
        raise ValueError(
            f"embedding_bits must be 1 to 8, or None for float; got {bits!r}; several are the candidates of a search"
        )
    return tuple(sorted(set(values))) if isinstance(bits, Iterable) else values[0]


def _checked_input_bits(bits: Any) -> int | tuple[int, ...] | str | None:
    if bits is None or bits == OF_WEIGHTS:
        return bits
    values = whole_numbers(bits)
    if values is None or any(not 2 <= one <= 8 for one in values):
        raise ValueError(
            f"activation_bits must be 2 to 8, or None for float; got {bits!r}; several are the candidates of a "
            f"search, {OF_WEIGHTS!r} gives an input the bits of its matrix"
        )
    return tuple(sorted(set(values))) if isinstance(bits, Iterable) else values[0]


def _check_range(name: str, bits: int | None, lowest: int) -> None:
    if bits is not None and (isinstance(bits, bool) or not isinstance(bits, int) or not lowest <= bits <= 8):
        raise ValueError(f"{name} must be {lowest} to 8, or None for float; got {bits!r}")


def _assignment_dict(assignment: Any) -> dict | None:
    if assignment is None:
        return None
    if isinstance(assignment, str | Path):
        assignment = Assignment.load(assignment)
    if isinstance(assignment, Mapping):
        assignment = Assignment.from_dict(assignment)
    if not isinstance(assignment, Assignment):
        raise ValueError(f"assignment must be an Assignment, a file or a dictionary, got {type(assignment).__name__}")
    return assignment.to_dict()
