"""Whole files against their digests: every byte that will be loaded, whatever head or type it is loaded into."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from .store import PackedFormatError, digest, open_file, read_metadata

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def verify(files: Iterable[str | Path], signed: bool = True) -> None:
    """Read some safetensors files once, and compare each tensor with the digest that was written with it.

    Args:
        signed: whether every tensor must have a digest; without, only numbers are looked at.

    Raises:
        PackedFormatError: when a tensor is missing, added, changed, or holds NaN or infinity; the first is named.
    """
    files = list(files)
    expected = read_metadata(files) if signed else {}
    found, changed = set(), []
    for name, tensor in _tensors(files):
        found.add(name)
        if name in expected and digest(tensor) != expected[name]:
            changed.append(name)
        elif tensor.dtype in _FLOATS:
            check_finite(name, tensor)
    if signed:
        _refuse(changed, expected.keys() - found, found - expected.keys())


def check_finite(name: str, values: Tensor, remedy: str = "copy or download it again, or save it anew") -> None:
    """Raise PackedFormatError when some value is NaN or infinite."""
    if not bool(torch.isfinite(values).all()):
        raise PackedFormatError(f"{name} holds NaN or infinity: {remedy}")


def _tensors(files: Iterable[str | Path]) -> Iterator[tuple[str, Tensor]]:
    for file in files:
        with open_file(file) as content:
            for name in content.keys():  # noqa: SIM118
                try:
                    yield name, content.get_tensor(name)
                except (SafetensorError, RuntimeError) as error:
                    raise PackedFormatError(
                        f"{name} cannot be read from {Path(file).name} ({error}): copy or download it again"
                    ) from error


def _refuse(changed: list[str], missing: Iterable[str], unsigned: Iterable[str]) -> None:
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
