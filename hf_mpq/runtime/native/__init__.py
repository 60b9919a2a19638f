"""Whole encoders in one call of a kernel that is built when the package is installed."""

from .encoder import NAME, NativeEncoder, make_native, restore_encoders
from .library import built, library, paths

__all__ = ["NAME", "NativeEncoder", "built", "library", "make_native", "paths", "restore_encoders"]
