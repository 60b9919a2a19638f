"""How activations are quantized: plain data."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ActivationSpec:
    """How one activation is quantized.

    Attributes:
        quantizer, options: a registered activation quantizer with its options.
        bits: that it has; while they are open, the highest that it may get.
        candidates: bits to choose from, ascending; none where they are decided.
        gate, gate_options: what yields them while they are open.
        follows: whether they go with the matrix that reads the activation, see `following`; then nothing is searched.
    """

    quantizer: str = "dynamic-token"
    bits: int = 8
    options: Mapping[str, Any] = field(default_factory=dict)
    candidates: tuple[int, ...] = ()
    gate: str = "softmax"
    gate_options: Mapping[str, Any] = field(default_factory=dict)
    follows: bool = False

    def decided(self, bits: int) -> "ActivationSpec":
        """The same with bits that are chosen."""
        return ActivationSpec(self.quantizer, bits, self.options)

    def following(self, bits: Iterable[int]) -> int:
        """The lowest candidate that is not below the highest of these bits of sub-groups, else the highest."""
        most = max(bits, default=0)
        return next((one for one in self.candidates if one >= most), self.candidates[-1])


@dataclass(frozen=True)
class AttentionSpec:
    """How the operands of the two attention products are quantized: query, key and value alike, and probabilities."""

    operands: ActivationSpec
    probabilities: ActivationSpec
