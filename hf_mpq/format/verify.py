"""Files against their digests: every byte that will be loaded, whatever head or type it is loaded into."""

from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from .digests import Digests, Prefix
from .store import PackedFormatError, open_file

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def verify(
    files: Iterable[str | Path], signed: bool = True, prefixes: Mapping[str, Prefix] | None = None
) -> dict[str, Tensor]:
    """Read some safetensors files once, and compare each tensor with the digest that was written with it.

    Args:
        signed: whether every tensor must have a digest; without, only numbers are looked at.
        prefixes: name to the planes that will be loaded of a tensor: no others are read, where each plane has a digest.

    Returns:
        Name to what was read of each tensor; of memory-mapped files that is no copy.

    Raises:
        PackedFormatError: when a tensor is missing, added, changed, or holds NaN or infinity; the first is named.
    """
    files, prefixes = list(files), prefixes or {}
    digests = Digests.of(files) if signed else Digests({}, {})
    found, changed = {}, []
    for name, tensor in read_tensors(files, digests, prefixes):
        found[name] = tensor
        if not digests.agree(name, tensor, prefixes.get(name)):
            changed.append(name)
        elif tensor.dtype in _FLOATS:
            check_finite(name, tensor)
    if signed:
        refuse(changed, digests.tensors.keys() - found.keys(), found.keys() - digests.tensors.keys())
    return found


def check_finite(name: str, values: Tensor, remedy: str = "copy or download it again, or save it anew") -> None:
    """Raise PackedFormatError when some value is NaN or infinite."""
    if not bool(torch.isfinite(values).all()):
        raise PackedFormatError(f"{name} holds NaN or infinity: {remedy}")


def read_tensors(
    files: Iterable[str | Path],
    digests: Digests,
    prefixes: Mapping[str, Prefix],
    names: Container[str] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Name and content of every tensor, or of some, one at a time, and no more of it than `Digests.read` says."""
    for file in files:
        with open_file(file) as content:
            for name in (name for name in content.keys() if names is None or name in names):  # noqa: SIM118
                try:
                    yield name, digests.read(content, name, prefixes.get(name))
                except (SafetensorError, RuntimeError) as error:
                    raise PackedFormatError(
                        f"{name} cannot be read from {Path(file).name} ({error}): copy or download it again"
                    ) from error


def refuse(changed: list[str], missing: Iterable[str], unsigned: Iterable[str]) -> None:
    """Raise PackedFormatError where there is any such tensor."""
    missing, unsigned = sorted(missing), sorted(unsigned)
    if changed:
        raise PackedFormatError(
            f"{len(changed)} tensors differ from what was saved, first {changed[0]!r}: the file "
            "was changed or damaged; copy or download it again"
        )
    if missing:
        raise PackedFormatError(
            f"{len(missing)} tensors that were saved are missing, first {missing[0]!r}: copy or "
            "download the folder again"
        )
    if unsigned:
        raise PackedFormatError(
            f"the file has no digest for {len(unsigned)} tensors, first {unsigned[0]!r}: it was "
            "rewritten by another tool; save it again with hf_mpq"
        )
