"""How much memory something takes, seen from outside: as the operating system counts it, or the GPU's allocator."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Peak of this process's memory over what it was when this was made; on a CPU all of it, libraries' buffers too.

    Args:
        device: where the memory is.

    Raises:
        OSError: where the system does not tell: on a CPU only Linux does.
    """

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            self._before = torch.cuda.memory_allocated(device)
        else:
            self._before = _resident()

    def of(self, run: Callable[[], object]) -> int:
        """Bytes at the highest moment of `run`."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            run()
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_allocated(self.device) - self._before
        _resident()
        CLEAR.write_text("5")  # the highest mark starts anew
        run()
        return max(_read("VmHWM") - self._before, 0)


def _resident() -> int:
    """Bytes resident once the allocator has given back what is free."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError as error:
        raise OSError("peak memory can be read with glibc only") from error
    return _read("VmRSS")


def _read(field: str) -> int:
    if not STATUS.exists():
        raise OSError("peak memory can be read on Linux only")
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
