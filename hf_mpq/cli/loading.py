"""What loading a model costs, measured in a process of its own: `python -m hf_mpq.cli.loading DIR BITS`."""

import json
import subprocess
import sys
import time
from pathlib import Path

STATUS = Path("/proc/self/status")


def resident(field: str) -> int | None:
    """Bytes of a line of Linux' /proc/self/status: VmRSS is resident now, VmHWM was at the peak; None elsewhere."""
    if not STATUS.exists():
        return None
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return 1024 * int(lines[field].split()[0])


def load_and_run(folder: str, trust: bool = False, bits: str | None = None) -> dict[str, float | None]:
    """Seconds until loaded; bytes that the process took more at its peak, a forward pass at 1 x 32 included."""
    import torch

    from .models import config_of, kind_of  # imports what it needs, hf_mpq's quantizer too
    from .typed import checked_precisions

    kind, options = kind_of(folder, config_of(folder, trust), trust)
    options |= {} if bits is None else {"bits": checked_precisions(bits)}
    before, start = resident("VmRSS"), time.perf_counter()
    model = kind.from_pretrained(folder, **options).eval()
    seconds = time.perf_counter() - start
    with torch.inference_mode():
        model(input_ids=torch.ones(1, 32, dtype=torch.long))
    peak = resident("VmHWM")
    return {"seconds": seconds, "peak_bytes": None if peak is None else peak - before}


def loading_cost(folder: str, trust: bool = False, bits: str | None = None) -> dict[str, float | None]:
    """`load_and_run` in a fresh process, so that what this one holds already does not count."""
    command = [sys.executable, "-m", "hf_mpq.cli.loading", folder, bits or "", *["trust"] * trust]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise OSError(f"{folder} could not be loaded in a process of its own: {result.stderr.strip()[-300:]}")
    return json.loads(result.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(load_and_run(sys.argv[1], "trust" in sys.argv[3:], sys.argv[2] or None)))
