"""One precision for each nested matrix, and for the normalisation layers around them."""

import re
from collections.abc import Iterable, Mapping

from .patterns import search
from .storage import MatrixStorage

LAYER = re.compile(r".*?\.\d+\.")
"""How the names of all that is in a numbered layer begin."""


def named_precisions(
    bits: int | Mapping[str, int], nested: Mapping[str, MatrixStorage], others: Iterable[str] = ()
) -> dict[str, int]:
    """The precision of each matrix that `bits` says something of, by relative name.

    Args:
        bits: of all nested matrices, or of those in whose names a regular expression is found; later ones win over
            earlier ones.
        nested: the matrices with nested codes.
        others: names of the matrices with codes of one precision.

    Raises:
        ValueError: for bits that are no number, a pattern that is found in no nested matrix, and a precision that is
            not stored.
    """
    pairs = bits if isinstance(bits, Mapping) else {"": bits}
    if not nested:
        raise ValueError("this model has no nested precisions; quantize it with MPQConfig(bits=(2, 4, 8), nested=True)")
    chosen: dict[str, int] = {}
    for pattern, wanted in pairs.items():
        if isinstance(wanted, bool) or not isinstance(wanted, int):
            raise ValueError(f"a precision is a whole number of bits, 4 for example; got {wanted!r}")
        found = [name for name in nested if search(pattern, name)]
        if not found:
            raise _unknown(pattern, nested, others)
        chosen |= dict.fromkeys(found, wanted)
    for name, wanted in chosen.items():
        check_served(name, nested[name], wanted)
    return chosen


def check_served(name: str, stored: MatrixStorage, bits: int) -> None:
    """Raise ValueError when a matrix cannot be used at `bits`, saying what it stores or how to get it back."""
    if bits in stored.served:
        return
    if bits in stored.nested:
        raise ValueError(
            f"{name} has only {stored.served[-1]} of its {stored.nested[-1]} bit planes here, so {bits} bits are gone: "
            "load the whole folder again, without bits=, or extract from that"
        )
    raise ValueError(f"{name}: {bits} bits are not among the nested precisions {stored.served}")


def _unknown(pattern: str, nested: Mapping[str, MatrixStorage], others: Iterable[str]) -> ValueError:
    plain = next((name for name in others if search(pattern, name)), None)
    if plain is not None:
        return ValueError(f"{plain}, which {pattern!r} finds, has codes of one precision, which cannot be chosen")
    return ValueError(f"{pattern!r} is found in no nested matrix; the first is {next(iter(nested))!r}")


def norm_precision(
    name: str, served: tuple[int, ...], chosen: Mapping[str, int], nested: Mapping[str, MatrixStorage]
) -> int:
    """The set of parameters that a normalisation layer uses, of one for each precision in `served`.

    It is the highest precision that at least half of the nested weights of its layer reach, and outside of layers at
    least half of those of the model; or else the next lower one that it has. So no set that was left out with planes is
    ever needed again.

    Args:
        name: of the normalisation layer, relative as all names.
        chosen: precision of each nested matrix.
    """
    layer = LAYER.match(name)
    near = [one for one in nested if layer and one.startswith(layer[0])] or list(nested)
    weights = {one: nested[one].layout.shape[0] * nested[one].layout.shape[1] for one in near}
    reached, bits = 0, min(served)
    for one in sorted(near, key=chosen.__getitem__, reverse=True):
        reached, bits = reached + weights[one], chosen[one]
        if 2 * reached >= sum(weights.values()):
            break
    return max((one for one in served if one <= bits), default=min(served))
