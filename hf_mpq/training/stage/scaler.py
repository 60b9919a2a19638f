"""Scaling of float16 gradients where some steps have none."""

import torch
from torch import Tensor
from torch.optim import Optimizer


class IdleStepScaler(torch.amp.GradScaler):
    """A gradient scaler that takes a step in which nothing has a gradient for one without infinities.

    PyTorch's refuses it ("No inf checks were recorded"). A search has such steps: AQ-BERT's gates stand still during
    the warm-up, while their slice goes by.

    Args:
        device: of the parameters.
    """

    def __init__(self, device: torch.device):
        super().__init__(device.type)
        self.scale(torch.zeros((), device=device))  # makes the scale, which a run resumed in such a step needs at once

    def _unscale_grads_(
        self, optimizer: Optimizer, inv_scale: Tensor, found_inf: Tensor, allow_fp16: bool
    ) -> dict[torch.device, Tensor]:
        return super()._unscale_grads_(optimizer, inv_scale, found_inf, allow_fp16) or {found_inf.device: found_inf}
