"""One trainer at a time in a run's folder."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

FILE = "run.lock"


@contextmanager
def only_trainer(folder: str | Path, main: bool) -> Iterator[None]:
    """Hold a run's folder; the system lets go of it when the process ends, however it ends.

    Args:
        main: whether this process holds it; the others wait for what it finds.

    Raises:
        ValueError: in every process, when another trainer is at work there.
    """
    lock = FileLock(Path(folder) / FILE)
    held = _acquired(lock) if main else True
    if not broadcast_object_list([held])[0]:
        raise ValueError(
            f"another trainer is at work in {folder} (it holds {FILE}): wait for it to end, or give another output_dir"
        )
    try:
        yield
    finally:
        lock.release()


def _acquired(lock: FileLock) -> bool:
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except NotImplementedError:
        warnings.warn(
            f"{lock.lock_file}: this file system cannot lock files, so nothing keeps a second trainer out of "
            "the folder",
            stacklevel=2,
        )
    return True
