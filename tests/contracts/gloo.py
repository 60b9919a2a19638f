"""Two processes on one machine."""

import os
import socket
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from tests.processes import FORKED


def _enter(rank: int, function, port: int, folder: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        function(rank, folder)
    finally:
        dist.destroy_process_group()


def run_two_processes(function, folder: Path) -> None:
    """Run `function(rank, folder)` in two processes that share a gloo group; raises what they raise."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(_enter, args=(function, port, folder), nprocs=2, start_method=FORKED)
