"""The packed format on disk: bit planes, the version, digests."""

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
from .verify import check_finite, verify

__all__ = [
    "FORMAT_VERSION",
    "SIGNED_SINCE",
    "PackedFormatError",
    "check_digests",
    "check_finished",
    "check_finite",
    "check_version",
    "digest",
    "digests_to_metadata",
    "model_folder",
    "pack_flags",
    "pack_planes",
    "read_headers",
    "read_metadata",
    "read_signature",
    "unpack_flags",
    "unpack_planes",
    "verify",
]
