"""Loss and time of a stage, whatever parts it was trained in."""

import json
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

FILE = "totals.json"


class Totals:
    """Sums up the loss of every micro-batch without waiting for the device.

    Args:
        device: of the losses.
    """

    def __init__(self, device: torch.device):
        kind = torch.float32 if device.type == "mps" else torch.float64  # which MPS does not have
        self._loss, self._count = torch.zeros((), dtype=kind, device=device), 0
        self._seconds, self._start = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return self._seconds + time.monotonic() - self._start

    def add(self, loss: Tensor) -> None:
        """One micro-batch's share of a step's loss; where it is not finite, the mean so far stands for it."""
        known = self._loss / max(self._count, 1)
        self._loss = self._loss + torch.where(loss.isfinite(), loss.detach().to(self._loss.dtype), known)
        self._count += 1

    def share(self, accelerator: Accelerator) -> None:
        """From now on the loss of every process is the mean of all; to be called in all of them."""
        self._loss = accelerator.reduce(self._loss, "mean")

    def mean(self, steps: int) -> float:
        """Loss of a step, over `steps` of them."""
        return float(self._loss) / max(steps, 1)

    def save(self, folder: Path) -> None:
        """Write them into a checkpoint."""
        content = {"loss": float(self._loss), "micro_batches": self._count, "seconds": self.seconds}
        (folder / FILE).write_text(json.dumps(content))

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        content = json.loads((folder / FILE).read_text())
        self._loss.fill_(content["loss"])
        self._count, self._seconds, self._start = content["micro_batches"], content["seconds"], time.monotonic()
