"""Several processes at one sweep, on one machine."""

import multiprocessing
import os
import signal
from pathlib import Path

from .sweep import Sweep

THREADS = "OMP_NUM_THREADS"


def run_in_processes(sweep: Sweep, workers: int, retry: bool = False) -> None:
    """Run what has no row in so many processes, which share the cores out; this process waits, and runs what one that
    was killed left.

    Args:
        sweep: as it stands in its folder.
        workers: processes.
        retry: what failed before gets another turn.
    """
    if retry:
        sweep.journal().retry()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    before, context = os.environ.get(THREADS), multiprocessing.get_context("spawn")
    os.environ.setdefault(THREADS, str(max(1, cores // workers)))
    started = [context.Process(target=_work, args=(str(sweep.folder),)) for _ in range(workers)]
    try:
        for one in started:
            one.start()
        for one in started:
            one.join()
    finally:
        if before is None:
            del os.environ[THREADS]
        for one in started:
            if one.is_alive():
                one.terminate()
            one.join()
    sweep.run()


def _work(folder: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Sweep(Path(folder)).run()
