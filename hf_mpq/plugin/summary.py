"""The resolved table in words: what applies to which weights, one line for all that are alike."""

import re

from ..core import ActivationSpec, PrecisionSpace, WeightSpec, pattern_word


def resolved_lines(space: PrecisionSpace) -> list[str]:
    """One line per kind of weight, numbered layers merged: name pattern, how many, sub-groups, bits, activations."""
    rows: dict[tuple[str, str], int] = {}
    for name, spec in space.weights.items():
        key = re.sub(r"(?<=\.)\d+(?=\.)", "*", name), _describe(spec)
        rows[key] = rows.get(key, 0) + 1
    return [f"{pattern} ({count}): {text}" for (pattern, text), count in rows.items()]


def _describe(spec: WeightSpec) -> str:
    histogram = sorted(set(spec.bits)) if spec.bits is not None else spec.candidates
    bits = "/".join(str(b) for b in histogram)
    state = "" if spec.bits is not None or spec.nested else " to search"
    extras = [*spec.transforms, *([_describe_mask(spec)] if spec.mask or spec.patterns else [])]
    extras += [_describe_input(spec.activation)] if spec.activation else []
    parts = [f"{spec.layout.count} sub-groups at {bits} bits{state}", spec.quantizer, *extras]
    return ", ".join(parts)


def _describe_mask(spec: WeightSpec) -> str:
    if spec.pattern_is_open:
        return f"patterns {', '.join(map(pattern_word, spec.patterns))} to choose from"
    return f"mask {spec.mask}" if spec.pattern is None else f"pattern {pattern_word(spec.pattern)}"


def _describe_input(spec: ActivationSpec) -> str:
    bits = "/".join(map(str, spec.candidates or (spec.bits,)))
    how = " as the weights" if spec.follows else " to search" if spec.candidates else ""
    return f"inputs {spec.quantizer} {bits} bits{how}"
