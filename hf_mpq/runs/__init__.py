"""What the folder of a training run is, for who writes it and who reads it."""

from .reader import Run, RunStage, read_run

__all__ = ["Run", "RunStage", "read_run"]
