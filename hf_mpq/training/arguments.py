"""What a user of the trainer sets beyond the arguments of transformers."""

import os
from dataclasses import dataclass, field
from typing import ClassVar

from transformers import TrainingArguments

from ..core import plain

_SHARDING = "ACCELERATE_USE_FSDP"
"""Variable by which `accelerate launch` asks for FSDP, whatever the arguments say."""
REINITS = {"finetuned": "loaded", "pretrained": "pretrained", "random": "random"}


@dataclass
class MPQTrainingArguments(TrainingArguments):
    """`TrainingArguments` of a whole run; `num_train_epochs` (or `max_steps`) is shared out among the stages.

    Raises:
        ValueError: for a field that is out of range, or one of transformers' that a run in stages cannot follow.
    """

    stages: dict | str | None = field(
        default=None,
        metadata={
            "help": "changes to the method's stages: name to {field of StageSpec: value}, such as "
            '{"search": {"share": 0.5, "strategy": {"name": "joint", "start": "bits"}}}. Objectives and schedules that '
            "are given are all that the stage has; {} leaves it without any."
        },
    )
    scale_learning_rate: float = field(
        default=10.0,
        metadata={
            "help": "Learning rate of quantization steps, relative to their size, of offsets, relative to "
            "their range, and of bit planes, in units of learning_rate."
        },
    )
    search_fraction: float = field(
        default=0.2, metadata={"help": "Share of the training set that a strategy with a search slice keeps for it."}
    )
    selection_examples: int = field(
        default=256,
        metadata={"help": "Training examples on which the selection rule compares assignments; 0: none are compared."},
    )
    selection_steps: int = field(
        default=0, metadata={"help": "Steps of each candidate's short training; 0: a tenth of the stage that follows."}
    )
    calibration_examples: int = field(
        default=512, metadata={"help": "Training examples for scores and activation ranges."}
    )
    reinit: str | None = field(
        default=None,
        metadata={
            "help": "Where weights are trained from once the bits are decided, for methods that start anew: "
            "'finetuned' (as loaded; the default), 'pretrained' or 'random'."
        },
    )
    pretrained: str | None = field(default=None, metadata={"help": "Model name or folder for reinit='pretrained'."})

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*TrainingArguments._VALID_DICT_FIELDS, "stages"]

    def __post_init__(self):
        super().__post_init__()
        self.stages = plain(self.stages)
        if not 0 < self.search_fraction < 1:
            raise ValueError(f"search_fraction must be between 0 and 1, got {self.search_fraction}")
        if self.reinit is not None and self.reinit not in REINITS:
            raise ValueError(f"reinit must be one of {', '.join(REINITS)}, got {self.reinit!r}")
        if self.reinit == "pretrained" and self.pretrained is None:
            raise ValueError("reinit='pretrained' needs the model: set pretrained='bert-base-uncased', for example")
        if self.load_best_model_at_end:
            raise ValueError(
                "load_best_model_at_end would let the dev set choose the model; leave it off and compare "
                "the stages' metrics in stages.json"
            )
        ignored = [
            name
            for name in ("label_smoothing_factor", "auto_find_batch_size", "neftune_noise_alpha", "save_only_model")
            if getattr(self, name, None)
        ]
        if ignored:
            raise ValueError(f"stages do not follow {', '.join(ignored)}: leave it off")
        if self.deepspeed or self.fsdp or os.environ.get(_SHARDING, "false").lower() == "true":
            raise ValueError(
                "stages run in one process or with DistributedDataParallel (torchrun, accelerate launch); "
                "leave deepspeed and fsdp off, also in `accelerate config`"
            )


def examples_per_step(args: MPQTrainingArguments) -> int:
    """Of one optimizer step, over all micro-batches and processes."""
    return args.train_batch_size * args.world_size * args.gradient_accumulation_steps
