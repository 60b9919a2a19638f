"""Training: runs in stages, their objectives, and the plain fine-tuning that they start from."""

from .._extras import require

with require("train", "hf_mpq.training"):
    from .arguments import MPQTrainingArguments
    from .callbacks import UpdateQuantizers
    from .fine_tuning import fine_tune
    from .stage.stopping import TrainingStopped
    from .trainer import MPQTrainer

__all__ = ["MPQTrainer", "MPQTrainingArguments", "TrainingStopped", "UpdateQuantizers", "fine_tune"]
