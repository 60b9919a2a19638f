"""What this machine's GPU and its packages can do."""

import os
import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

LEAST_CAPABILITY = (7, 5)
"""The first generation whose tensor cores multiply 8-bit integers."""
TRITON_CAPABILITY = (8, 0)
"""The first for which Triton compiles such products."""


def lacking(devices: set[torch.device], integers: bool) -> str | None:
    """Why layers on these devices cannot run here, with what helps; None where they can.

    Args:
        devices: of all packed layers.
        integers: whether any of them multiplies integers.
    """
    if not torch.cuda.is_available():
        return "torch finds no CUDA device: use backend='auto', which takes what the CPU has"
    if any(device.type != "cuda" for device in devices):
        return "the model is not on a CUDA device: call model.cuda() first"
    old = [device for device in devices if _capability(device) < LEAST_CAPABILITY]
    if integers and old and torch.version.hip is None:
        found = ".".join(map(str, _capability(old[0])))
        return f"the GPU's compute capability is {found}, integer products need 7.5: use backend='cuda-float'"
    return None


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def kernels_for(device: torch.device) -> ModuleType | None:
    """The Triton kernels; None on a CPU, where Triton is not even imported, on GPUs that are too old for it, and where
    it is not installed. On a CPU they run too where `TRITON_INTERPRET=1` asks Triton for its interpreter."""
    if device.type == "cuda":
        return _imported() if _capability(device) >= TRITON_CAPABILITY else None
    return _imported() if os.environ.get("TRITON_INTERPRET") == "1" else None


@cache
def _imported() -> ModuleType | None:
    if find_spec("triton") is None:
        warnings.warn(
            "triton is not installed: products are integer, but their other steps are not fused, and codes "
            "of few bits are not read where they are stored; pip install triton",
            stacklevel=3,
        )
        return None
    return import_module(f"{__package__}.kernels")
