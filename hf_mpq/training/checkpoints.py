"""Checkpoints of a stage: whole or not there, and refused where they do not fit."""

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

COMPLETE = "complete"
"""The file that a checkpoint's folder gets last."""
_OBJECTIVES, _STRATEGY = "objectives.safetensors", "strategy.pt"
_FOLDER = re.compile(r"checkpoint-(\d+)")


def complete_checkpoints(folder: str | Path) -> list[Path]:
    """Whole checkpoints in a folder, oldest first."""
    found = [(int(match[1]), path) for path in Path(folder).glob("checkpoint-*")
             if (match := _FOLDER.fullmatch(path.name)) and (path / COMPLETE).exists()]  # fmt: skip
    return [path for _, path in sorted(found)]


def remove_partial_checkpoints(folder: str | Path) -> None:
    """Delete what a process that was killed while it saved or deleted a checkpoint left behind."""
    whole = complete_checkpoints(folder)
    for path in Path(folder).glob("checkpoint-*"):
        if _FOLDER.fullmatch(path.name) and path not in whole:
            shutil.rmtree(path)


class StageCheckpoints:
    """Saving and loading for a Trainer whose `model` is a `StageModule` and that has a `strategy`, `in_step` and
    `stop_after_step`.

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
        args = copy.copy(self.args)
        args.hub_token = None
        torch.save(args, folder / "training_args.bin")

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.in_step:
            self.stop_after_step()
            return
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        if (folder / COMPLETE).exists():  # the one that this run was resumed from
            return
        if self.args.should_save and folder.exists():
            shutil.rmtree(folder)
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
        student = self.model.student
        student.load_state_dict(load_strictly(type(student), folder).state_dict())
        expected = self.model.objectives.state_dict()
        if expected:
            self.model.objectives.load_state_dict(load_file(folder / _OBJECTIVES))
        if self.strategy is not None:
            self.strategy.load_state_dict(torch.load(folder / _STRATEGY, weights_only=True))


def load_strictly(kind: type[nn.Module], folder: str | Path) -> nn.Module:
    """`kind.from_pretrained(folder)`, in the mode for training.

    Raises:
        ValueError: when the folder lacks a tensor of the model, or has one that the model does not.
    """
    model, found = kind.from_pretrained(folder, output_loading_info=True)
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    wrong = {name: sorted(found[name]) for name in kinds if found[name]}
    if wrong:
        words = "; ".join(f"{name.replace('_', ' ')}: {', '.join(map(str, keys[:5]))}" for name, keys in wrong.items())
        raise ValueError(f"{folder} does not hold this model ({words}): resume with the model and the arguments that "
                         "the run was started with")  # fmt: skip
    return model.train()
