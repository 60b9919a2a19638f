"""The packed format on disk: bit planes, masks, the version, digests.

Metadata of each safetensors file hold a digest of every tensor (`mpq_digests`), what the config says (`mpq_config`),
and of nested codes a digest of every single plane (`mpq_planes`): who reads only the upper planes checks exactly what
it reads. A file without digests of planes is read, and checked, whole.
"""

from .digests import Digests, Prefix, plane_digests, planes_to_metadata
from .masks import MASK_ENCODINGS, mask_encoding, stored_mask
from .model_folder import check_finished, model_folder
from .planes import pack_flags, pack_planes, unpack_flags, unpack_planes
from .store import (
    FORMAT_VERSION,
    SIGNED_SINCE,
    PackedFormatError,
    check_digests,
    check_version,
    digest,
    digests_to_metadata,
    read_headers,
    read_metadata,
    read_signature,
)
from .verify import check_finite, read_tensors, refuse, verify

__all__ = [
    "FORMAT_VERSION",
    "MASK_ENCODINGS",
    "SIGNED_SINCE",
    "Digests",
    "PackedFormatError",
    "Prefix",
    "check_digests",
    "check_finished",
    "check_finite",
    "check_version",
    "digest",
    "digests_to_metadata",
    "mask_encoding",
    "model_folder",
    "pack_flags",
    "pack_planes",
    "plane_digests",
    "planes_to_metadata",
    "read_headers",
    "read_metadata",
    "read_signature",
    "read_tensors",
    "refuse",
    "stored_mask",
    "unpack_flags",
    "unpack_planes",
    "verify",
]
