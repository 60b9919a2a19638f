"""Tells sampler, strategy and schedules where training is."""

import torch
from transformers import Trainer, TrainerCallback


class FollowProgress(TrainerCallback):
    """Tells sampler and strategy where training is, and ends it after a step."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        epoch = state.global_step // self.trainer.steps_per_epoch
        self.trainer.set_epoch(epoch)

    def on_step_end(self, args, state, control, **kwargs):
        with torch.no_grad():
            for schedule in self.trainer.model.schedules.values():
                schedule.after_step(self.trainer.model.student, self.trainer.progress)
        if self.trainer.stops:
            self.trainer.stops, control.should_save, control.should_training_stop = False, True, True

    def on_step_begin(self, args, state, control, **kwargs):
        if self.trainer.strategy is not None:
            self.trainer.strategy.schedule(self.trainer.model.student, self.trainer.progress)
        for schedule in self.trainer.model.schedules.values():
            schedule.before_step(self.trainer.model.student, self.trainer.progress)
