"""One trainer at a time in a folder."""

import os
import signal

import pytest
from filelock import FileLock
from transformers import TrainerCallback

from hf_mpq.training.run.lock import FILE, only_trainer
from tests.training.runs import quantized, trainer


def test_a_second_trainer_is_refused_and_the_first_goes_on(tmp_path):
    words = []

    class Second(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 1:
                with pytest.raises(ValueError, match=r"another trainer is at work .*run\.lock.* output_dir") as no:
                    trainer(quantized("uniform"), tmp_path, max_steps=2).train(resume_from_checkpoint=True)
                words.append(str(no.value))

    run = trainer(quantized("uniform"), tmp_path, max_steps=2, callbacks=[Second()])
    run.train()
    assert words and run.state.global_step == 2
    run.train(resume_from_checkpoint=True)


def test_a_failed_run_lets_go(tmp_path):
    with pytest.raises(KeyError), only_trainer(tmp_path, True):
        raise KeyError
    with only_trainer(tmp_path, True):
        pass


def test_a_killed_process_lets_go(tmp_path):
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        with FileLock(tmp_path / FILE):
            os.write(tell, b"1")
            signal.pause()
    try:
        os.read(ready, 1)
        with pytest.raises(ValueError, match="another trainer"), only_trainer(tmp_path, True):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with only_trainer(tmp_path, True):
        pass
