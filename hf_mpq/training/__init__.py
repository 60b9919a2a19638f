"""Training: for now, the plain fine-tuning that everything else starts from."""

from .fine_tuning import fine_tune

__all__ = ["fine_tune"]
