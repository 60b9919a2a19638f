"""Whole encoders in one call of a kernel that is built when the package is installed."""

from .encoder import NAME, NativeEncoder, make_native, restore_encoders, runs_natively
from .library import built, digest, lacking, library, paths

__all__ = [
    "NAME",
    "NativeEncoder",
    "built",
    "digest",
    "lacking",
    "library",
    "make_native",
    "paths",
    "restore_encoders",
    "runs_natively",
]
