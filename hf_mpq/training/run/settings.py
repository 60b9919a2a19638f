"""What decides the result of a run, for comparison with the run that is to be resumed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from ...core import MethodSpec, StageSpec
from ...plugin import MPQConfig
from ...runs.record import GIVEN
from ..arguments import MPQTrainingArguments, examples_per_step
from ..stage.sampling import masks_at_random

ARGUMENTS = (
    "seed",
    "data_seed",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "scale_learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "optim",
    "optim_args",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "bf16",
    "fp16",
    "train_sampling_strategy",
    "dataloader_drop_last",
    "search_fraction",
    "selection_examples",
    "selection_steps",
    "calibration_examples",
    "reinit",
    "pretrained",
)
"""Those that change what is trained; logging, saving, evaluation and memory savings may change between resumes."""
_WRITTEN = ("resolved", "shapes", "packed", "origin")
"""Fields of a config that follow from others, or only say where a model is from."""


def settings_of(
    method: MethodSpec,
    plan: list[StageSpec],
    config: MPQConfig,
    args: MPQTrainingArguments,
    rows: Any,
    teacher: bool,
    collator: Any = None,
    compared: int = 0,
    model: nn.Module | None = None,
    given: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """What `stages.json` begins with, as JSON gives it back.

    Of the batch size, accumulation and the number of processes only the product counts, `examples_per_step`: how a step
    is cut up makes no difference but to dropout, and to which tokens a collator masks: where it chooses them at random,
    the cut counts too, as `micro_batches`.

    Args:
        rows: the training set.
        teacher: whether one was given.
        collator: makes batches.
        compared: rows of the training set that the selection rule keeps for itself.
        model: whose frozen parameters count.
        given: digests of the model, the training rows and the teacher; what has none does not count.
    """
    fields = {name: value for name, value in config.to_dict().items() if name not in _WRITTEN}
    if fields.get("assignment") is not None:
        written = json.dumps(fields["assignment"], sort_keys=True)
        fields["assignment"] = hashlib.sha256(written.encode()).hexdigest()[:12]
    content = {
        "method": method.name,
        "plan": [asdict(stage) for stage in plan],
        "config": fields,
        "arguments": {name: getattr(args, name) for name in ARGUMENTS},
        "examples_per_step": examples_per_step(args),
        "training_examples": len(rows) if hasattr(rows, "__len__") else None,
        "compared_examples": compared,
        "frozen_parameters": _frozen(model),
        "teacher": "given" if teacher else "the model itself",
        GIVEN: {name: digest for name, digest in (given or {}).items() if digest is not None},
    }
    if masks_at_random(collator):
        names = ("per_device_train_batch_size", "gradient_accumulation_steps", "world_size")
        content["micro_batches"] = {name: getattr(args, name) for name in names}
    return json.loads(json.dumps(content, default=str))


def _frozen(model: nn.Module | None) -> str:
    """How many parameters do not train, and which, in short."""
    names = sorted(name for name, one in model.named_parameters() if not one.requires_grad) if model is not None else []
    return f"{len(names)}, digest {hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]}" if names else "0"
