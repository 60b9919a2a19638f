"""The models that stages begin with, always read from disk: a resumed stage begins as the uninterrupted one."""

import copy
import os
import shutil
from pathlib import Path

from torch import nn

from ..core import Assignment
from ..integrations import fix, quantize
from ..nn.walk import matrices
from .checkpoints import load_strictly

START = "0-start"
MODEL = "model"


class Students:
    """Saves and loads models in a run's folder.

    Args:
        folder: of the run.
        kind: the model's class.
        pretrained: name or folder of the checkpoint before fine-tuning, for stages that start from it.
    """

    def __init__(self, folder: str | Path, kind: type[nn.Module], pretrained: str | None = None):
        self.folder, self.kind, self.pretrained = Path(folder), kind, pretrained

    def loaded(self) -> nn.Module:
        """The model as the user gave it."""
        return load_strictly(self.kind, self.folder / START)

    def of_stage(self, stage: str) -> nn.Module:
        """The model that a stage ended with; raises FileNotFoundError when it has not."""
        folder = self.folder / stage / MODEL
        if not folder.exists():
            raise FileNotFoundError(f"{folder} is gone, and a later stage needs it: start anew in another output_dir")
        return load_strictly(self.kind, folder)

    def start(self, start: str, previous: str | None, assignment: Assignment | None) -> nn.Module:
        """The model that a stage begins with.

        Args:
            start: one of `STARTS`.
            previous: folder name of the stage before, where there is one.
            assignment: closes the gates.
        """
        if start == "previous" and previous is not None:
            model = self.of_stage(previous)
        elif start in ("previous", "loaded"):
            model = self.loaded()
        else:
            model = self._afresh(start)
        return fix(model, assignment).train() if assignment is not None and is_open(model) else model

    def _afresh(self, start: str) -> nn.Module:
        """The same architecture with other float weights, quantized by the same config."""
        config = copy.deepcopy(self.kind.config_class.from_pretrained(self.folder / START))
        quantization = self.loaded().config.quantization_config
        del config.quantization_config
        if start == "random":
            return quantize(self.kind(config), quantization).train()
        model = self.kind.from_pretrained(self.pretrained, config=config)
        return quantize(model, quantization).train()

    def save(self, model: nn.Module, folder: str) -> None:
        """Write a model as `folder` of the run; a half-written one never has that name."""
        place = self.folder / folder
        partial = place.with_name(place.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(partial, place)


def is_open(model: nn.Module) -> bool:
    """Whether any precision is still to be decided."""
    return any(layer.program.gate.searching for _, layer in matrices(model))
