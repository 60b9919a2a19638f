"""The built kernel, as it was installed with the package."""

import hashlib
import warnings
from ctypes import CDLL, POINTER, c_char_p, c_int, c_int64, c_uint32, c_void_p
from functools import cache
from pathlib import Path
from zlib import crc32

from .structures import Encoder, Request

HERE = Path(__file__).parent
PREFIX = "_kernel"


@cache
def library() -> CDLL | None:
    """The kernel; None, with a warning that says why, where it is not there or cannot be loaded."""
    found, reason = _found()
    if found is None:
        warnings.warn(
            f"whole encoders in one call are left out (layers run by torch's operators): {reason}", stacklevel=2
        )
    return found


def lacking() -> str | None:
    """Why there is no kernel to call, with what helps; None where there is one. Loads it, without a warning."""
    found, reason = _found()
    return reason if found is None else None


def _found() -> tuple[CDLL | None, str]:
    files = sorted(HERE.glob(f"{PREFIX}*.so")) + sorted(HERE.glob(f"{PREFIX}*.pyd"))
    reason = "it was not built when hf_mpq was installed: install a C++ compiler (g++), then hf_mpq again"
    for file in files:
        try:
            found = CDLL(str(file))
        except OSError as error:
            reason = str(error)
            continue
        if _speaks_as_here(found):
            return _declared(found), ""
        reason = f"{file} was built of another version of hf_mpq: install it again"
    return None, reason


def built() -> bool:
    """Whether the kernel is there, without loading it or a warning."""
    return any(HERE.glob(f"{PREFIX}*.so")) or any(HERE.glob(f"{PREFIX}*.pyd"))


@cache
def digest() -> str | None:
    """Of the kernel's file; None where it is not there."""
    files = sorted(HERE.glob(f"{PREFIX}*.so")) + sorted(HERE.glob(f"{PREFIX}*.pyd"))
    return hashlib.sha256(files[0].read_bytes()).hexdigest()[:12] if files else None


def paths() -> list[str]:
    """Sets of instructions that the kernel can use on this machine, fastest first."""
    found = library()
    return [] if found is None else found.hf_mpq_paths().decode().split(",")


def _speaks_as_here(found: CDLL) -> bool:
    """Whether a kernel was built of the interface that `structures` describes; calling another one would crash."""
    try:
        told = found.hf_mpq_interface
    except AttributeError:  # older than the question
        return False
    told.restype = c_uint32
    return told() == crc32((HERE / "kernel" / "interface.h").read_bytes())


def _declared(found: CDLL) -> CDLL:
    found.hf_mpq_paths.restype = c_char_p
    found.hf_mpq_make.argtypes, found.hf_mpq_make.restype = (POINTER(Encoder), c_char_p), c_void_p
    found.hf_mpq_drop.argtypes, found.hf_mpq_drop.restype = (c_void_p,), None
    found.hf_mpq_bytes.argtypes, found.hf_mpq_bytes.restype = (c_void_p,), c_int64
    found.hf_mpq_run.argtypes, found.hf_mpq_run.restype = (c_void_p, POINTER(Request)), c_int
    return found
