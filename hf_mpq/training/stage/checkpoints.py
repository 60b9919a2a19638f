"""Checkpoints of a stage: whole or not there, and refused where they do not fit."""

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainingArguments

from ...runs.checkpoints import complete_checkpoints
from ...runs.files import COMPLETE

_OBJECTIVES, _STRATEGY, _SCHEDULES = "objectives.safetensors", "strategy.pt", "schedules.pt"


def without_secrets(args: TrainingArguments) -> TrainingArguments:
    """A copy of arguments that can be written down: tokens of the Hub are left out."""
    found = copy.copy(args)
    for name in vars(args):
        if name.endswith("_token") and isinstance(getattr(args, name), str):
            setattr(found, name, None)
    return found


class StageCheckpoints:
    """Saving and loading for a Trainer whose `model` is a `StageModule` and that has a `strategy`, `in_step`,
    `stop_after_step` and `Totals`.

    A checkpoint is the student as `save_pretrained` writes it, with the parameters of objectives and the state of the
    strategy beside it, and all that a Trainer saves. It counts once its last file is written; older ones are deleted
    only then.
    """

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        self.model.student.save_pretrained(folder)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        parameters = {name: value.detach().contiguous() for name, value in self.model.objectives.state_dict().items()}
        if parameters:
            save_file(parameters, folder / _OBJECTIVES)
        if self.strategy is not None:
            torch.save(self.strategy.state_dict(), folder / _STRATEGY)
        if self.model.schedules:
            states = {name: schedule.state_dict() for name, schedule in self.model.schedules.items()}
            torch.save(states, folder / _SCHEDULES)
        self._totals.save(folder)
        torch.save(without_secrets(self.args), folder / "training_args.bin")

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.in_step:
            self.stop_after_step()
            return
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        if (folder / COMPLETE).exists():  # the one that this run was resumed from
            return
        if self.args.should_save and folder.exists():
            shutil.rmtree(folder)
        self._totals.share(self.accelerator)
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            (folder / COMPLETE).touch()
            for old in complete_checkpoints(folder.parent)[: -limit if limit else 0]:
                (old / COMPLETE).unlink()
                shutil.rmtree(old)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        if not (folder / COMPLETE).exists():
            raise ValueError(f"{folder} is not a whole checkpoint; take one that holds a file {COMPLETE!r}")
        load_state(self.model.student, saved_state(folder), folder)
        self._totals.load(folder)
        if self.model.objectives.state_dict():
            self.model.objectives.load_state_dict(load_file(folder / _OBJECTIVES))
        if self.strategy is not None:
            self.strategy.load_state_dict(torch.load(folder / _STRATEGY, weights_only=True))
        if self.model.schedules:
            for name, state in torch.load(folder / _SCHEDULES, weights_only=True).items():
                self.model.schedules[name].load_state_dict(state)


def saved_state(folder: str | Path) -> dict[str, Tensor]:
    """The tensors that `save_pretrained` wrote into a folder, of all shards."""
    files = sorted(Path(folder).glob("model*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Load a state dict in place; of tensors that are one in the model, one name is enough.

    Args:
        source: where the state is from, for the error.

    Raises:
        ValueError: when it lacks a tensor of the model, has one that the model does not, or one of another shape.
    """
    own = model.state_dict(keep_vars=True)
    given = {id(own[name]) for name in state if name in own}
    wrong = {
        "missing keys": [name for name, tensor in own.items() if name not in state and id(tensor) not in given],
        "unexpected keys": [name for name in state if name not in own],
        "mismatched keys": [name for name, tensor in state.items() if name in own and own[name].shape != tensor.shape],
    }
    if any(wrong.values()):
        words = "; ".join(f"{kind}: {', '.join(sorted(names)[:5])}" for kind, names in wrong.items() if names)
        raise ValueError(
            f"{source} does not hold this model ({words}): resume with the model and the arguments that "
            "the run was started with"
        )
    model.load_state_dict(state, strict=False)
