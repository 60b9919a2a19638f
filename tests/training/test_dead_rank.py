"""A process of several that is killed ends the others with an error, and soon: nobody waits for what never comes."""

import os
import signal
import socket
import time
from multiprocessing import get_context

import pytest
import torch
from transformers import TrainerCallback

from tests.processes import FORKED
from tests.training.runs import quantized, sentences, trainer

SOON = 60
"""Seconds."""


class Dies(TrainerCallback):
    """Is killed when a step begins, in one process."""

    def __init__(self, folder, here):
        self.folder, self.here = folder, here

    def on_step_begin(self, args, state, control, **kwargs):
        if self.here and state.global_step == 1:
            (self.folder / "died").write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)


def _process(rank, port, folder, dead):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank))
    os.environ.update(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    rows, callbacks = sentences(32), [Dies(folder, rank == dead)]
    options = {"train_dataset": rows, "callbacks": callbacks, "save_strategy": "no", "per_device_train_batch_size": 4}
    run = trainer(quantized(bits=4), folder / "run", **options)
    try:
        run.train()
    except Exception:
        (folder / "ended").write_text(str(time.time()))
        raise


@pytest.mark.parametrize("dead", [1, pytest.param(0, marks=pytest.mark.full)])
def test_the_others_end_when_one_is_killed(dead, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = get_context(FORKED)
    both = [context.Process(target=_process, args=(rank, port, tmp_path, dead)) for rank in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert both[dead].exitcode == -signal.SIGKILL and both[1 - dead].exitcode == 1
    assert float((tmp_path / "ended").read_text()) - float((tmp_path / "died").read_text()) < SOON
