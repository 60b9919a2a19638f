"""What rounders ask of a model and of the examples before they change anything."""

from collections.abc import Sequence

import torch
from torch import nn

from ..nn import MPQLinear
from ..nn.walk import matrices


def check_examples(batches: Sequence) -> None:
    """Raise ValueError when there are no batches."""
    if not len(batches):
        raise ValueError("no calibration examples were given; a few hundred of the task's inputs are enough")


def check_decided(model: nn.Module) -> None:
    """Raise ValueError when some precision is still searched."""
    for name, layer in matrices(model, MPQLinear):
        if layer.is_open:
            raise ValueError(f"{name}: its precision is still searched; call hf_mpq.fix(model) first")


def check_fixed_grids(model: nn.Module) -> None:
    """Raise ValueError when chosen codes could not be written back into some float master."""
    for name, layer in matrices(model, MPQLinear):
        program = layer.program
        if not program.quantizer.keeps_scales:
            raise ValueError(
                f"{name}: the quantizer {layer.spec.quantizer!r} has no fixed grid of one scale per sub-group, so "
                "codes cannot be chosen for it; use quantizer='symmetric' or 'lsq', or rounding='nearest'"
            )
        if program.source.owns_weight or len(program.transforms):
            raise ValueError(
                f"{name}: its float weight is not its own parameter as it is, so codes cannot be written "
                "into it; use source='float-master' without transforms"
            )


def check_float32(model: nn.Module) -> None:
    """Raise ValueError when some float master is of half precision, too coarse for small steps."""
    for name, layer in matrices(model, MPQLinear):
        if layer.weight.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"{name}: small steps vanish in {layer.weight.dtype} weights; load the model with dtype=torch.float32"
            )
