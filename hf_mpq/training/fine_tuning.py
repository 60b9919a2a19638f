"""Plain fine-tuning of a float model: what compression starts from."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from datasets import Dataset
from torch import nn
from transformers import Trainer, TrainingArguments

from ..nn.bfloat16 import cpu_multiplies_bf16


def fine_tune(model: nn.Module, rows: Dataset, collator: Callable, folder: str | Path, **arguments) -> nn.Module:
    """Train `model` on prepared rows with the ordinary Trainer; nothing is saved but what the arguments ask for, and
    trainers with other arguments, made before or after, train as without it.

    Args:
        rows: tokenized, with `labels`.
        collator: pads a list of rows to a batch.
        folder: the Trainer's working folder.
        arguments: fields of `TrainingArguments` that win over: batches of 32, learning rate 1e-4 with a warm-up of a
            tenth, bfloat16 autocast where the CPU is made for it.
    """
    chosen = {
        "per_device_train_batch_size": 32,
        "learning_rate": 1e-4,
        "warmup_steps": 0.1,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 50,
        "bf16": cpu_multiplies_bf16(),
        "use_cpu": not torch.cuda.is_available(),
        "train_sampling_strategy": "group_by_length",
        **arguments,
    }
    with _state_kept():
        trainer = Trainer(model, TrainingArguments(str(folder), **chosen), collator, rows)
        trainer.train()
        return trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False).eval()  # no autocast around forward


@contextmanager
def _state_kept() -> Iterator[None]:
    """Afterwards accelerate's precision and device, which all trainers of a process share, are what they were. Process
    groups are left alone, and one that was made inside stays known."""
    precision, device = dict(AcceleratorState._shared_state), dict(PartialState._shared_state)
    try:
        yield
    finally:
        AcceleratorState._shared_state.clear()
        AcceleratorState._shared_state.update(precision)
        PartialState._shared_state.update(device)
