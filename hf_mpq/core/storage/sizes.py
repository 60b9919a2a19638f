"""Bytes of what every part is made of: bit planes and floats."""

from math import ceil

ITEM_BYTES = {"float16": 2, "float32": 4}


def plane_bytes(lines: int, length: int, bits: int) -> int:
    """Bytes of `bits` bit planes over `lines` lines of `length` codes, each line padded to a whole byte."""
    return bits * lines * ceil(length / 8)
