"""Parsed targets: how small, how fast, or with how much energy."""

import re
from dataclasses import dataclass

_UNITS = {
    "b": ("bytes", 1.0),
    "kb": ("bytes", 1e3),
    "mb": ("bytes", 1e6),
    "gb": ("bytes", 1e9),
    "kib": ("bytes", 2.0**10),
    "mib": ("bytes", 2.0**20),
    "gib": ("bytes", 2.0**30),
    "bits": ("bits", 1.0),
    "x": ("ratio", 1.0),
    "ms": ("latency", 1.0),
    "uj": ("energy", 1.0),
}
_PATTERN = re.compile(r"(?:(?P<scope>\w+):)?\s*(?P<number>\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>[A-Za-z]+)"
                      r"(?:@(?P<batch>\d+)x(?P<tokens>\d+))?")  # fmt: skip
_SCOPES = ("model", "encoder", "embedding")


class BudgetError(ValueError):
    """A budget that cannot be read, or that nothing in the space can meet."""


@dataclass(frozen=True)
class Budget:
    """A target for the compressed model.

    Attributes:
        amount: how much, in the unit of its kind.
        kind: `"bytes"` (everything stored in the scope), `"bits"` (mean code bits over compressible encoder weights),
            `"ratio"` (share of the float32 file), `"latency"` (milliseconds) or `"energy"` (microjoules).
        scope: `"model"`, `"encoder"` or `"embedding"`.
        batch, tokens: of the input that a latency is meant for.
    """

    amount: float
    kind: str
    scope: str = "model"
    batch: int = 1
    tokens: int = 128

    @classmethod
    def parse(cls, text: "str | Budget") -> "Budget":
        """Read `"12MB"` (10^6 bytes), `"11MiB"`, `"encoder:25MiB"`, `"2.5bits"`, `"0.25x"`, `"8ms"` (at batch 1 x 128
        tokens; `"40ms@8x64"` at another) or `"120uJ"`.

        Raises:
            BudgetError: when the text is none of these, or is not above zero.
        """
        if isinstance(text, Budget):
            return text
        match = _PATTERN.fullmatch(str(text).strip())
        unit = match and _UNITS.get(match["unit"].lower())
        if not unit:
            raise BudgetError(f"cannot read the budget {text!r}; write for example '12MB', '11MiB', "
                              "'encoder:25MiB', '2.5bits', '0.25x', '8ms' or '120uJ'")  # fmt: skip
        kind, factor = unit
        amount = float(match["number"]) * factor
        if amount <= 0:
            raise BudgetError(f"the budget {text!r} must be above zero")
        shape = (int(match["batch"]), int(match["tokens"])) if match["batch"] else (1, 128)
        if match["batch"] and (kind != "latency" or min(shape) < 1):
            raise BudgetError(f"cannot read the budget {text!r}; only milliseconds have a batch and tokens, "
                              "above zero, such as '8ms@1x128'")  # fmt: skip
        return cls(amount, kind, _scope(match["scope"], kind), *shape)


def _scope(word: str | None, kind: str) -> str:
    scope = word or ("encoder" if kind == "bits" else "model")
    if scope not in _SCOPES:
        raise BudgetError(f"unknown scope {scope!r} in the budget; the known ones are: {', '.join(_SCOPES)}")
    if kind == "latency" and scope != "model":
        raise BudgetError("a budget in ms is for the whole model; drop the scope")
    if kind == "bits" and scope != "encoder":
        raise BudgetError("a budget in bits counts encoder weights only; drop the scope or write 'encoder:'")
    return scope
