"""The lowest precisions kept near the features of the highest ones."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ...nn import encoder_blocks
from ...nn.matrix import QuantizedMatrix
from ...nn.walk import matrices
from .base import OBJECTIVES, Objective, Signals
from .layers import layer_count
from .padding import mean_of_tokens
from .precision import in_float32


@OBJECTIVES.register("distortion")
class Distortion(Objective):
    """Information distortion mitigation of one-shot weight coupling (RFQuant, CVPR 2024): squared error of what the
    encoder layers give, mean over features and real tokens, for matrices that are at the lowest precision that their
    gates allow. It is zero where all are at higher ones, as on the maximum path that teaches.

    The paper compares each such layer by its batch-normalised output. Ours: a matrix of an encoder counts with the
    hidden state of its layer, so that each layer has the share of its weights that are at their lowest precision.

    Raises:
        ValueError: where no gate in the student's encoder is open; in forward, for a teacher of another shape.
    """

    needs_teacher = True
    features = ("hidden",)

    def __init__(self, student: nn.Module, teacher: nn.Module, weight: float = 1.0):
        super().__init__(student, teacher, weight)
        layers = [(name, layer) for name, layer in matrices(student) if layer.program.gate.searching]
        blocks = [[one for name, one in layers if name.startswith(f"{block}.")] for block in encoder_blocks(student)]
        if not any(blocks):
            raise ValueError(
                "distortion compares matrices at their lowest precision with higher ones: it is for a search, over an "
                "encoder with several precisions, such as MPQConfig(bits=(2, 4, 8))"
            )
        calls = layer_count(student)
        self._calls = tuple(blocks[call * len(blocks) // calls] for call in range(calls))  # in a tuple: no submodules

    @in_float32
    def forward(self, student: Signals, teacher: Signals, batch: Mapping[str, Tensor]) -> Tensor:
        ours, theirs = student.features["hidden"], teacher.features["hidden"]
        total = 0.0 * ours[-1].float().sum()
        for number, share in enumerate(_shares(self._calls), 1):
            if share:
                error = (ours[number].float() - _same_shape(theirs, number, ours[number])).square().mean(-1)
                total = total + share * mean_of_tokens(error, student.mask).mean()
        return total


def _same_shape(theirs: Sequence[Tensor], number: int, ours: Tensor) -> Tensor:
    """The teacher's feature of the same layer."""
    if len(theirs) <= number or theirs[number].shape != ours.shape:
        raise ValueError(
            "distortion compares every layer with that of the same place: the teacher of its pass must be an earlier "
            "pass of the student, or a model of the same shape"
        )
    return theirs[number].detach().float()


@torch.no_grad()
def _shares(calls: Sequence[Sequence[QuantizedMatrix]]) -> list[float]:
    """Share of the open weights of each layer that are at the lowest precision of several."""
    return torch.stack([_share(layers) for layers in calls]).tolist()  # waits for the device once


def _share(layers: Sequence[QuantizedMatrix]) -> Tensor:
    found, count = torch.zeros(()), 0
    for layer in layers:
        gate, sizes = layer.program.gate, torch.tensor(layer.spec.layout.numel, dtype=torch.float32)
        lowest = gate.allowed.int().argmax(1)
        here = gate.shares().gather(1, lowest.to(gate.device).unsqueeze(1)).squeeze(1)
        if gate.path is not None:
            here = (gate.path == lowest.to(gate.device)).float()
        several = (gate.allowed.sum(1) > 1).to(gate.device)
        found = found.to(gate.device) + (here * several * sizes.to(gate.device)).sum()
        count += int(sizes.sum())
    return found / max(count, 1)
