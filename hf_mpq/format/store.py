"""What is written around the packed tensors: the version, and a digest of each, so that damage is found at loading."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from torch import Tensor

FORMAT_VERSION = 2
"""1 has digests of packed tensors only; since 2 every tensor has one, and every field of the config that counts."""
SIGNED_SINCE = 2
_DIGESTS, _CONFIG = "mpq_digests", "mpq_config"


class PackedFormatError(ValueError):
    """A quantized folder that is damaged, incomplete, changed, or from a newer version."""


def check_version(version: int) -> None:
    """Raise PackedFormatError when a file's format is newer than this library."""
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise PackedFormatError(f"format_version in config.json is {version!r}, no version: download the folder again")
    if version > FORMAT_VERSION:
        raise PackedFormatError(
            f"this folder uses packed format {version} and the installed hf_mpq reads up to {FORMAT_VERSION}: "
            "upgrade with `pip install -U hf_mpq`"
        )


def digest(tensor: Tensor) -> str:
    """Fingerprint of a tensor's bytes, 16 hexadecimal digits (XXH3): against damage, not against malice."""
    content = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
    return xxhash.xxh3_64_hexdigest(content.data)


def digests_to_metadata(tensors: Mapping[str, Tensor], config: Mapping[str, str] | None = None) -> dict[str, str]:
    """Safetensors metadata with the digest of each tensor, by its name in the file, and of each field of the config."""
    found = {_DIGESTS: json.dumps({name: digest(tensor) for name, tensor in tensors.items()})}
    return found if config is None else found | {_CONFIG: json.dumps(dict(config))}


def read_metadata(files: Iterable[str | Path]) -> dict[str, str]:
    """Digests that the files' metadata holds, by name; empty where there are none."""
    return read_table(files, _DIGESTS)


def read_signature(files: Iterable[str | Path]) -> dict[str, str]:
    """What the files' metadata says of the config that they were saved with, by field; empty where it says nothing."""
    return read_table(files, _CONFIG)


def read_table(files: Iterable[str | Path], key: str) -> dict[str, str]:
    """Of the files' metadata, the tables under a key in one; empty where there are none."""
    found: dict[str, str] = {}
    for file in files:
        with open_file(file) as content:
            found |= _parsed((content.metadata() or {}).get(key, "{}"), file)
    return found


def _parsed(text: str, file: str | Path) -> dict[str, str]:
    """A flat table of strings."""
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise PackedFormatError(f"the digests in {Path(file).name} are damaged: copy or download it again")
    return table


def read_headers(files: Iterable[str | Path]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name to type and shape of every tensor in some safetensors files, without reading the tensors."""
    table: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in files:
        with open_file(file) as content:
            for name in content.keys():  # noqa: SIM118
                part = content.get_slice(name)
                table[name] = (part.get_dtype(), tuple(part.get_shape()))
    return table


def open_file(file: str | Path):
    """A safetensors file, to be read; PackedFormatError where it is none, or no regular file: a pipe would not end."""
    if Path(file).exists() and not Path(file).is_file():
        raise PackedFormatError(f"{Path(file).name} is not a regular file: copy or download it again")
    try:
        return safe_open(str(file), framework="pt")
    except (SafetensorError, OSError) as error:
        raise PackedFormatError(
            f"{Path(file).name} is truncated or not a safetensors file ({error}): copy or download it again"
        ) from error


def check_digests(tensors: Mapping[str, Tensor], expected: Mapping[str, str]) -> None:
    """Raise PackedFormatError when a tensor differs from what was written."""
    changed = [name for name, tensor in tensors.items() if name in expected and digest(tensor) != expected[name]]
    if changed:
        raise PackedFormatError(
            f"{len(changed)} packed tensors differ from what was saved, first {changed[0]!r}: the file was changed or "
            "damaged; copy or download it again"
        )
    unsigned = sorted(set(tensors) - set(expected))
    if unsigned:
        raise PackedFormatError(
            f"the file has no digest for {len(unsigned)} packed tensors, first {unsigned[0]!r}: it was rewritten by "
            "another tool; save it again with hf_mpq"
        )
