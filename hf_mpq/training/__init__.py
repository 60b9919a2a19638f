"""Training: for now, the plain fine-tuning that everything else starts from."""

from .callbacks import UpdateQuantizers
from .fine_tuning import fine_tune

__all__ = ["UpdateQuantizers", "fine_tune"]
