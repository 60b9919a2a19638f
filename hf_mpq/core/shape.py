"""The shape of a model, where it is a choice."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class ModelShape:
    """What a model is cut or grown to; None leaves a dimension as it is.

    Attributes:
        layers: indices of the encoder layers kept, ascending from 0.
        hidden: hidden size.
        heads: attention heads of each layer kept.
        rows: feed-forward rows of each layer kept.

    Raises:
        ValueError: for a size below 1, layers that are not ascending, or lists of different lengths.
    """

    layers: tuple[int, ...] | None = None
    hidden: int | None = None
    heads: tuple[int, ...] | None = None
    rows: tuple[int, ...] | None = None

    def __post_init__(self):
        for name, value in self.to_dict().items():
            sizes, least = (value,) if name == "hidden" else value, 0 if name == "layers" else 1
            if not isinstance(sizes, tuple) or not sizes or not all(_is_number(one) and one >= least for one in sizes):
                raise ValueError(f"{name} of a shape: whole numbers of at least {least}, got {value!r}")
        if self.layers is not None and list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers of a shape must be ascending and distinct, got {self.layers}")
        if len({len(each) for each in (self.layers, self.heads, self.rows) if each is not None}) > 1:
            raise ValueError("layers, heads and rows of a shape must have one entry for each layer kept")

    def to_dict(self) -> dict:
        """JSON-able form; what is left as it is is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, content: Mapping) -> "ModelShape":
        """The inverse of `to_dict`; raises ValueError when `content` is no shape."""
        known = {field.name for field in fields(cls)}
        if not isinstance(content, Mapping) or not content.keys() <= known:
            raise ValueError(f"a shape has {', '.join(sorted(known))}, got {content!r}")
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
        }
        return cls(**given)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


SIZES = ("layers", "hidden", "heads", "rows")
DEFAULT_RULE = "even"


@dataclass(frozen=True)
class Reduction:
    """What a model is reduced to before it is compressed, in numbers; None leaves a dimension as it is.

    Attributes:
        layers: how many encoder layers stay, or which, ascending from 0.
        hidden: hidden size.
        heads: attention heads of every layer; None keeps their size, so that there are fewer where `hidden` is smaller.
        rows: feed-forward rows of every layer.
        choose: the rule that chooses layers where `layers` is a number; see `hf_mpq.nn.layer_choice.LAYER_RULES`.

    Raises:
        ValueError: for a size below 1, or layers that are not ascending.
    """

    layers: int | tuple[int, ...] | None = None
    hidden: int | None = None
    heads: int | None = None
    rows: int | None = None
    choose: str = DEFAULT_RULE

    def __post_init__(self):
        for name in SIZES:
            value = getattr(self, name)
            if isinstance(value, tuple):
                if name != "layers":
                    raise ValueError(f"{name} of a shape is one number for all layers, got {value!r}")
                ModelShape(layers=value)
            elif value is not None and not (_is_number(value) and value >= 1):
                raise ValueError(f"{name} of a shape must be a whole number from 1, got {value!r}")
        if not isinstance(self.choose, str):
            raise ValueError(f"choose names a rule, such as {DEFAULT_RULE!r}; got {self.choose!r}")

    @classmethod
    def of(cls, given: "str | Mapping | Reduction") -> "Reduction":
        """The reduction that is written as text, `"layers:4,rows:768"`, `"layers:0+2+5"`, as a mapping, or is one.

        Raises:
            ValueError: it is none of the three, names no dimension, or one that is unknown.
        """
        if isinstance(given, Reduction):
            return given
        if isinstance(given, str):
            given = _from_text(given)
        if not isinstance(given, Mapping):
            raise ValueError(f"a shape is written as {_EXAMPLE} or as a mapping; got {given!r}")
        known = (*SIZES, "choose")
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ValueError(f"a shape has {', '.join(known)}; got {unknown[0]!r}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
        }
        made = cls(**values)
        if all(getattr(made, name) is None for name in SIZES):
            raise ValueError(f"a shape names what changes, such as {_EXAMPLE}; got {given!r}")
        return made

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; what is left as it is is left out."""
        content = {name: value for name, value in asdict(self).items() if value is not None}
        if self.choose == DEFAULT_RULE:
            del content["choose"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in content.items()}


_EXAMPLE = "'layers:4' or 'layers:4,rows:768,hidden:192,choose:first'"


def _from_text(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in text.split(","):
        name, sign, value = (part.strip() for part in word.partition(":"))
        if not sign or name in found:
            raise ValueError(f"a shape is written as {_EXAMPLE}; got {text!r}")
        found[name] = value if name == "choose" else _numbers(value, text, name)
    return found


def _numbers(value: str, text: str, name: str) -> int | tuple[int, ...]:
    try:
        numbers = tuple(int(one) for one in value.split("+"))
    except ValueError:
        raise ValueError(f"{name} of a shape is a whole number; got {text!r}") from None
    return numbers if "+" in value else numbers[0]
