"""The resolved table of what may be chosen for each weight: plain data, made once from a user's config."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from .activation import ActivationSpec, AttentionSpec
from .layout import SubgroupLayout
from .sparsity import DENSE, Pattern


@dataclass(frozen=True)
class RowBlock:
    """Rows `start` to `start + count` of the matrix `name`: one logical shard of a fused weight."""

    name: str
    start: int
    count: int


@dataclass(frozen=True)
class Link:
    """Where the output of some rows goes, which decides what of it can be folded away when the rows are pruned.

    Attributes:
        kind: `"pointwise"`, `"gated"`, `"value"` or `"scores"`; each has its folding rule.
        blocks: the producing rows: one block for pointwise and value, (activated, gate) for gated, (query, key) for
            scores.
        consumer: the matrix whose columns read them; None for scores.
        activation: the pointwise function's name, where there is one.
        heads: attention heads, where there are any.
        rotary: rows of a head are rotated in pairs `(i, i + width / 2)`.
        paired: a query row may only go with its key row (positions are projected by the same weights).
    """

    kind: str
    blocks: tuple[RowBlock, ...]
    consumer: str | None = None
    activation: str | None = None
    heads: int | None = None
    rotary: bool = False
    paired: bool = False


@dataclass(frozen=True)
class WeightSpec:
    """What may be chosen for one weight matrix, and how it is then trained and stored.

    Attributes:
        layout: its sub-groups.
        candidates: precisions to choose from, ascending; 0 = pruned.
        bits: the fixed precision of each sub-group; None while it is searched.
        kind: `"linear"` or `"embedding"`.
        role: `"encoder"`, `"embedding"` or `"projection"` (everything else that is quantized).
        quantizer, gate, source: registered names, each with options.
        mask: None, `"element"` or `"n:m"`, with options.
        patterns: of N:M sparsity to choose from, `(kept, block)`, the densest first; empty where there is no choice.
            The mask is that of `pattern`, and of the densest one while that is open.
        pattern: the chosen one; None while it is open.
        transforms: registered name to options, in the order in which they are applied to the float weight.
        activation: of the input; None leaves it float.
        nested: precisions that one set of codes serves.
        calls: products per forward pass (shared weights are called several times).
        bias: whether the module has one.
        floats: stored floats per sub-group at each precision.
        scale_dtype, float_dtype: storage types of scales, and of biases and norms.
        affine: what is stored for each input channel: `"scale"`, `"shift"`, both or nothing; of linear layers.
        rank: of the low-rank correction that is added to the weight; 0 for none.
    """

    layout: SubgroupLayout
    candidates: tuple[int, ...]
    bits: tuple[int, ...] | None = None
    kind: str = "linear"
    role: str = "encoder"
    quantizer: str = "symmetric"
    quantizer_options: Mapping[str, Any] = field(default_factory=dict)
    gate: str = "fixed"
    gate_options: Mapping[str, Any] = field(default_factory=dict)
    source: str = "float-master"
    source_options: Mapping[str, Any] = field(default_factory=dict)
    mask: str | None = None
    mask_options: Mapping[str, Any] = field(default_factory=dict)
    transforms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    activation: ActivationSpec | None = None
    nested: tuple[int, ...] = ()
    calls: int = 1
    bias: bool = True
    floats: Mapping[int, int] = field(default_factory=dict)
    scale_dtype: str = "float16"
    float_dtype: str = "float16"
    tie: str | None = None
    affine: tuple[str, ...] = ()
    rank: int = 0
    patterns: tuple[Pattern, ...] = ()
    pattern: Pattern | None = None

    def __post_init__(self):
        if list(self.candidates) != sorted(set(self.candidates)):
            raise ValueError(f"candidates must be ascending and distinct, got {self.candidates}")
        if self.bits is not None and len(self.bits) != self.layout.count:
            raise ValueError(f"{len(self.bits)} bits given for {self.layout.count} sub-groups of {self.layout.shape}")

    @property
    def keep_of(self) -> tuple[int, int] | None:
        """What an N:M mask keeps, as `(kept, block)`, all where a pattern could be one; None for every other mask."""
        if self.mask == "n:m":
            return self.mask_options.get("kept", 2), self.mask_options.get("block", 4)
        return DENSE if self.patterns else None

    @property
    def pattern_is_open(self) -> bool:
        """Whether one of several patterns is still to be chosen."""
        return bool(self.patterns) and self.pattern is None

    def with_pattern(self, pattern: Pattern) -> "WeightSpec":
        """A copy whose pattern is decided, with the mask for it."""
        return replace(self, pattern=pattern, **_mask_of(pattern))

    def with_patterns(self, patterns: tuple[Pattern, ...]) -> "WeightSpec":
        """A copy whose pattern is one of these, the densest first; decided where it is the only one."""
        found = replace(self, patterns=patterns, pattern=None, **_mask_of(patterns[0]))
        return found if len(patterns) > 1 else found.with_pattern(patterns[0])


def _mask_of(pattern: Pattern) -> dict[str, Any]:
    options = {} if pattern == DENSE else {"kept": pattern[0], "block": pattern[1]}
    return {"mask": "n:m" if options else None, "mask_options": options}


class OpenChoice(NamedTuple):
    """What a search decides: one of `candidates` for each of `groups`."""

    groups: int
    candidates: tuple[int, ...]


def input_of(name: str) -> str:
    """What the input of a matrix is called beside the matrix, in scores, reluctances and paths."""
    return f"{name}.input"


@dataclass(frozen=True)
class PrecisionSpace:
    """Every weight's `WeightSpec`, with what ties them together.

    Attributes:
        weights: name relative to `base_model_prefix` to spec.
        norms: names of the normalisation layers whose parameters are stored rounded.
        links: producers and consumers, for folding and for counting live columns.
        attention: quantization of the attention products; None leaves them float.
        other_bytes: bytes of every stored tensor outside `weights` and `norms`, as typed.
        norm_parameters: number of parameters in `norms`.
        encoder_norm_parameters: number of those that belong to encoder layers.
        norm_dtype: storage type of the parameters in `norms`.
        norm_precisions: nested precisions with their own normalisation parameters; empty for a single set.
        encoder_other_bytes, embedding_other_bytes: the parts of `other_bytes` in encoder layers and in the embeddings.
        architecture: the model's class and its config as plain data, from which a model of its shape can be made and
            timed.
    """

    weights: Mapping[str, WeightSpec]
    norms: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    attention: AttentionSpec | None = None
    other_bytes: int = 0
    norm_parameters: int = 0
    encoder_norm_parameters: int = 0
    norm_dtype: str = "float16"
    norm_precisions: tuple[int, ...] = ()
    encoder_other_bytes: int = 0
    embedding_other_bytes: int = 0
    architecture: Mapping[str, Any] = field(default_factory=dict)

    @property
    def open_choices(self) -> dict[str, OpenChoice]:
        """Open matrices by name, then open inputs by `input_of` it; those that follow their matrix are no choice."""
        weights = {n: OpenChoice(s.layout.count, s.candidates) for n, s in self.weights.items() if s.bits is None}
        inputs = {name: spec.activation for name, spec in self.weights.items() if spec.activation is not None}
        searched = {name: one.candidates for name, one in inputs.items() if one.candidates and not one.follows}
        return weights | {input_of(name): OpenChoice(1, candidates) for name, candidates in searched.items()}

    @property
    def open_patterns(self) -> dict[str, tuple[Pattern, ...]]:
        """Patterns to choose from, of every matrix where that is still to be done, the densest first."""
        return {name: spec.patterns for name, spec in self.weights.items() if spec.pattern_is_open}

    def with_patterns(self, chosen: Mapping[str, Pattern]) -> "PrecisionSpace":
        """A copy with the patterns of some matrices decided."""
        decided = {name: self.weights[name].with_pattern(pattern) for name, pattern in chosen.items()}
        return replace(self, weights={**self.weights, **decided})

    def __deepcopy__(self, memo: dict) -> "PrecisionSpace":
        """Itself: nothing in it changes."""
        return self
