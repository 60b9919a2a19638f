"""Digests of tensors, and of the single planes of nested codes, so that a part of a tensor can be checked alone."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash
from torch import Tensor

from .store import PackedFormatError, digest, read_metadata, read_table

PLANES = "mpq_planes"
_DIGITS = 16


@dataclass(frozen=True)
class Prefix:
    """The first of the bit planes that one tensor holds, all equally long.

    Attributes:
        planes: how many are wanted.
        of: how many there are.
    """

    planes: int
    of: int

    def length(self, octets: int) -> int:
        """Bytes of the wanted planes of so many bytes."""
        return octets // self.of * self.planes


@dataclass(frozen=True)
class Digests:
    """What the metadata of some files says of their tensors.

    Attributes:
        tensors: name to digest of each tensor.
        planes: name to the digests of its planes, one after the other, of nested codes; files of earlier releases have
            none, and their codes are read whole.
    """

    tensors: Mapping[str, str]
    planes: Mapping[str, str]

    @classmethod
    def of(cls, files: Iterable[str | Path]) -> "Digests":
        """Of safetensors files."""
        files = list(files)
        return cls(read_metadata(files), read_table(files, PLANES))

    def read(self, content, name: str, prefix: Prefix | None = None) -> Tensor:
        """As much of a tensor of an opened safetensors file as has to be read to check it: the wanted planes where they
        have digests of their own, else all of it."""
        if prefix is None or name not in self.planes:
            return content.get_tensor(name)
        part = content.get_slice(name)
        with torch.device("cpu"):  # also while a skeleton is made
            return part[: prefix.length(part.get_shape()[0])]

    def agree(self, name: str, tensor: Tensor, prefix: Prefix | None = None) -> bool:
        """Whether what `read` gave is what was written; of a tensor without a digest that is not asked."""
        if prefix is None or name not in self.planes:
            return name not in self.tensors or digest(tensor) == self.tensors[name]
        if len(self.planes[name]) != prefix.of * _DIGITS:
            raise PackedFormatError(f"the digests of the planes of {name} are damaged: copy or download it again")
        return plane_digests(tensor, prefix.planes) == self.planes[name][: prefix.planes * _DIGITS]


def plane_digests(codes: Tensor, planes: int) -> str:
    """The digest of each of so many equally long planes, one after the other."""
    octets = codes.detach().contiguous().cpu().reshape(planes, -1)
    return "".join(xxhash.xxh3_64_hexdigest(plane.view(torch.uint8).numpy().data) for plane in octets)


def planes_to_metadata(tensors: Mapping[str, Tensor], planes: Mapping[str, int]) -> dict[str, str]:
    """Safetensors metadata with the digests of the planes of nested codes; empty where there are none.

    Args:
        planes: name to number of planes.
    """
    found = {name: plane_digests(tensors[name], count) for name, count in planes.items() if name in tensors}
    return {PLANES: json.dumps(found)} if found else {}
