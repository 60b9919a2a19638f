"""What a `config.json` may hold for us: types and numbers are looked at before anything is made of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypedDict

from huggingface_hub.dataclasses import validate_typed_dict
from huggingface_hub.errors import StrictDataclassError

from ..core import ActivationSpec, MaskStorage, MatrixStorage
from ..format import PackedFormatError, mask_encoding
from ..weights import ACTIVATIONS, ENCODINGS, ActivationQuantizer

_MISTAKES = (
    StrictDataclassError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
)
_Bits = int | list[int] | tuple[int, ...]
_LARGEST_RANK = 2**16


class Fields(TypedDict, total=False):
    """`quantization_config`, as JSON has it. An assignment is a dictionary: no path in a file is opened."""

    method: str | None
    bits: _Bits
    groups: int | str
    activation_bits: _Bits | str | None
    embedding_bits: _Bits | str | None
    projection_bits: int | None
    attention_bits: int | None
    assignment: dict | None
    budget: str | list[str] | None
    quantizer: str | dict
    quantizer_options: dict
    gate: str | dict | None
    gate_options: dict
    source: str | dict
    source_options: dict
    mask: str | dict | None
    mask_options: dict
    patterns: list[str]
    transforms: dict[str, dict]
    nested: bool
    switchable_norms: bool
    activation: str | dict
    activation_options: dict
    modules_to_not_convert: list[str] | None
    rules: dict[str, dict]
    order: dict[str, list[str]]
    scale_dtype: str
    float_dtype: str
    storage: str
    resolved: list[str]
    low_rank: int
    input_affine: dict[str, list[str]]
    shapes: dict[str, list[int]]
    precision: dict[str, int]
    packed: dict
    shape: str | dict | None
    origin: dict
    inside: str
    format_version: int
    quant_method: str


class _Layout(TypedDict, total=False):
    shape: list[int]
    groups: int
    axis: Literal[0, 1]
    shards: int


class _Matrix(TypedDict, total=False):
    layout: dict
    encoding: str
    length: int
    bias: int | None
    precisions: dict[str, list[int]]
    nested: list[int]
    scale_dtype: Literal["float16", "float32"]
    float_dtype: Literal["float16", "float32"]
    affine: list[Literal["scale", "shift"]]
    rank: int
    keep_of: list[int]
    mask_encoding: str | dict
    activation: list


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Whatever goes wrong inside is a PackedFormatError that names `what` of config.json and says what to do."""
    try:
        yield
    except PackedFormatError:
        raise
    except RecursionError:
        raise PackedFormatError(f"{what} in config.json is nested without end: download the folder again") from None
    except _MISTAKES as error:
        said = " ".join(str(error).split()) or type(error).__name__
        said = f"{said} is missing" if isinstance(error, KeyError) else said
        raise PackedFormatError(
            f"{what} in config.json cannot be used: {said}. Set it back, or copy or download the folder again"
        ) from error


def check_fields(content: Mapping[str, Any]) -> None:
    """Raise StrictDataclassError when a field of `quantization_config` has another type than ours."""
    validate_typed_dict(Fields, dict(content))


def read_matrix(content: Mapping[str, Any], shape: tuple[int, ...], bias: bool) -> MatrixStorage:
    """How one matrix is packed, from its entry in the table; no number in it is larger than the matrix.

    Args:
        shape: of the weight in the model that config.json describes.
        bias: whether that layer has one.

    Raises:
        ValueError, StrictDataclassError, KeyError: what is wrong.
    """
    validate_typed_dict(_Matrix, dict(content))
    validate_typed_dict(_Layout, content["layout"])
    _require(tuple(content["layout"]["shape"]) == tuple(shape), f"layout.shape is not {list(shape)}, the model's")
    stored = MatrixStorage.from_dict(content)
    layout, bits = stored.layout, sorted(stored.groups)
    floats = {b: ENCODINGS[stored.encoding].floats(b, stored.nested) for b in bits}
    _require(set(bits) <= set(range(1, 9)) and list(stored.groups) == bits, "precisions are not 1 to 8, ascending")
    _require(set(stored.nested) <= set(range(1, 9)) and list(stored.nested) == sorted(set(stored.nested)), "nested")
    _require(not stored.nested or set(bits) <= set(stored.nested), "precisions are not among the nested ones")
    _require(dict(stored.floats) == floats, f"{stored.encoding} stores other floats than precisions say")
    _require(_within(stored.groups.values(), layout.count), "precisions have more sub-groups than the layout")
    _require(_within(stored.lines.values(), layout.shape[layout.axis]), "precisions have more lines than the matrix")
    _require(0 <= stored.length <= layout.line_length, "length is longer than a line")
    _require(not stored.kept or stored.kept.keys() == stored.groups.keys(), "a mask is on some precisions only")
    _require(all(0 <= n <= stored.lines[b] * stored.length for b, n in stored.kept.items()), "a mask keeps too much")
    _require(stored.mask is None or _fits(stored, stored.mask), "a mask has another size than what it keeps")
    _require((stored.bias is not None) == bias, "bias is there and not in the model, or the reverse")
    _require(stored.bias is None or 0 <= stored.bias <= shape[0], "bias has more entries than rows")
    _require(0 <= stored.rank <= _LARGEST_RANK, "rank")
    _require(len(content.get("keep_of", (1, 2))) == 2 and min(content.get("keep_of", (1,))) > 0, "keep_of")
    return stored


def read_activation(spec: Any) -> ActivationQuantizer | None:
    """The quantizer that `[name, bits, options]` describes; None for none. Raises ValueError, TypeError."""
    if spec is None:
        return None
    name, bits, options = _spec(spec)
    ACTIVATIONS.check_options(name, options)
    return ActivationQuantizer.from_spec(ActivationSpec(name, bits, options))


def read_spec(spec: Any) -> ActivationSpec:
    """The same, as it is resolved."""
    return read_activation(_spec(spec)).spec


def _spec(spec: Any) -> list:
    _require(isinstance(spec, list) and len(spec) == 3, "an activation is not [name, bits, options]")
    _require(isinstance(spec[1], int) and isinstance(spec[2], dict), "an activation is not [name, bits, options]")
    return spec


def _fits(stored: MatrixStorage, mask: MaskStorage) -> bool:
    encoding = mask_encoding(mask.encoding)
    numbers = ((stored.lines[bits], stored.length, kept, mask.sizes[bits]) for bits, kept in mask.kept.items())
    return all(encoding.possible(*one) for one in numbers)


def _within(counts, most: int) -> bool:
    counts = list(counts)
    return all(count > 0 for count in counts) and sum(counts) <= most


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(problem)
