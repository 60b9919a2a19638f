"""The contract of every rounder."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import nn

from ..core import Registry

ROUNDERS: Registry[type["Rounder"]] = Registry("rounding", passed=("progress",))


class Rounder(ABC):
    """Chooses codes and scales of a quantized model whose precisions are fixed, from inputs without labels.

    What it chose is written into the model itself: the kept weights of every float master it rounded lie on their grid
    afterwards, so that forward, `encode` and the packed file agree, and training can go on from there. Rounders that
    train instead (`lkd`) leave the masters float.

    Modes, hooks and gradients are left as they were, in both models. Each rounder takes `progress`.

    Attributes:
        needs_data: whether `round` uses the batches and the float model.
        steps: how often each weight is rounded anew while it learns; for an estimate of time.
    """

    needs_data = True
    steps = 0

    @abstractmethod
    def round(self, model: nn.Module, reference: nn.Module, batches: Sequence[Mapping]) -> None:
        """Choose, in place.

        Args:
            model: trainable, every gate decided, pruned rows folded, scales set by their scan.
            reference: the float model it was made from; left as it is.
            batches: keyword arguments of forward, as tensors; labels in them are not used.

        Raises:
            ValueError: when there are no batches, or a quantizer reads its scales off the weight.
        """

    def forward_passes(self, model: nn.Module, batches: Sequence[Mapping]) -> float:
        """About how many forward passes of one of the batches through the whole model `round` takes, beside `steps`;
        for an estimate of time."""
        return 0.0
