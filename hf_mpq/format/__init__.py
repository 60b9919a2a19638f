"""The packed format on disk: bit planes, the version, digests."""

from .model_folder import check_finished, model_folder
from .planes import pack_flags, pack_planes, unpack_flags, unpack_planes
from .store import (
    FORMAT_VERSION,
    PackedFormatError,
    check_digests,
    check_version,
    digest,
    digests_to_metadata,
    read_headers,
    read_metadata,
)

__all__ = [
    "FORMAT_VERSION",
    "PackedFormatError",
    "check_digests",
    "check_finished",
    "check_version",
    "digest",
    "digests_to_metadata",
    "model_folder",
    "pack_flags",
    "pack_planes",
    "read_headers",
    "read_metadata",
    "unpack_flags",
    "unpack_planes",
]
