"""Training arguments of a run among many: all stages at one learning rate, one checkpoint, quiet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..core import MethodSpec
from ..nn.bfloat16 import cpu_multiplies_bf16
from ..training import MPQTrainingArguments


def run_arguments(
    folder: str | Path, method: MethodSpec, stages: Mapping[str, Mapping[str, Any]] | None = None, **given: Any
) -> MPQTrainingArguments:
    """Arguments that runs of several methods share, so that no method is better for its schedule.

    Args:
        folder: of the run.
        method: whose stages get the same learning rate, where one is given.
        stages: changes to stages, which win over it.
        given: fields of `MPQTrainingArguments`, which win over: a tenth of warm-up, batches of similar lengths, the
            last checkpoint alone, bfloat16 where the CPU is made for it, no bars.
    """
    rate = {"arguments": {"learning_rate": given["learning_rate"]}} if "learning_rate" in given else {}
    changes = {stage.name: {**rate, **(stages or {}).get(stage.name, {})} for stage in method.stages}
    changes |= {name: change for name, change in (stages or {}).items() if name not in changes}
    usual = {
        "warmup_steps": 0.1,
        "train_sampling_strategy": "group_by_length",
        "save_steps": 50,
        "save_total_limit": 1,
        "logging_steps": 25,
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": cpu_multiplies_bf16(),
        "use_cpu": not torch.cuda.is_available(),
    }
    return MPQTrainingArguments(str(folder), stages=changes, **{**usual, **given})
