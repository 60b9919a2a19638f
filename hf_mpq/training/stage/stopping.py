"""Runs that end before they are done."""

from collections.abc import Iterable

from transformers import EarlyStoppingCallback, TrainerCallback


class TrainingStopped(RuntimeError):
    """A callback, a signal or the end of the data stopped a stage before its last step.

    Nothing is derived, saved or marked as finished then: `train(resume_from_checkpoint=True)` goes on from the stage's
    last checkpoint, to what the run would have given without the stop.
    """


def refuse_early_stopping(callbacks: Iterable[TrainerCallback | type[TrainerCallback]]) -> None:
    """Raise ValueError where the dev set would choose when a stage ends."""
    for one in callbacks:
        if issubclass(one if isinstance(one, type) else type(one), EarlyStoppingCallback):
            raise ValueError(
                "EarlyStoppingCallback would let the dev set choose the model, and a stage that stops "
                "early is not finished: leave it off, and set num_train_epochs or max_steps"
            )
