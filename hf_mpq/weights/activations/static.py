"""Ranges remembered from training."""

import torch
from torch import Tensor

from ...core import from_bytes, to_bytes
from .base import ACTIVATIONS, ActivationGrid, ActivationQuantizer
from .fixed import FixedGridQuantizer


@ACTIVATIONS.register("static")
class StaticQuantizer(ActivationQuantizer):
    """One range per tensor: an exponential moving average of the smallest and largest value (Q8BERT, decay 0.9999).

    Forward passes in training mode only observe; `update` takes the observed range into the average. Until the first
    `calibrate` or `update` the range of the current tensor is used. The gradient is straight-through everywhere, as in
    Q8BERT. The range is kept as bytes, because the average would stand still in a half-precision buffer.
    """

    name = "static"
    stored_bytes = 8

    def __init__(self, bits: int = 8, symmetric: bool = False, decay: float = 0.9999):
        super().__init__(bits, symmetric)
        self.decay = decay
        self.register_buffer("range_bytes", to_bytes(torch.zeros(2), torch.float32))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        self._observed: Tensor | None = None

    @property
    def range(self) -> Tensor:
        """Smallest and largest value, `(2,)` float32."""
        return from_bytes(self.range_bytes, torch.float32)

    @property
    def options(self) -> dict:
        return super().options | ({} if self.decay == 0.9999 else {"decay": self.decay})

    def frozen(self) -> ActivationQuantizer:
        if not self.ready:
            raise ValueError("a static activation range was never observed: run `hf_mpq.nn.calibrate_activations`")
        return FixedGridQuantizer.of(self, self.grid_of_range(*self.range))

    def grid(self, x: Tensor) -> ActivationGrid:
        now = torch.stack([x.amin(), x.amax()]).float().detach()
        if self.training:
            self._observe(now)
        low, high = torch.where(self.ready, self.range, now)
        return self.grid_of_range(low, high)

    def _observe(self, now: Tensor) -> None:
        if self._observed is None:
            self._observed = now
        else:
            self._observed = torch.stack(
                [torch.minimum(now[0], self._observed[0]), torch.maximum(now[1], self._observed[1])]
            )

    @torch.no_grad()
    def reset(self) -> None:
        self.range_bytes.zero_()
        self.ready.fill_(False)
        self._observed = None

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        now = torch.stack([x.amin(), x.amax()]).float()
        low, high = self.range
        wider = torch.stack([torch.minimum(now[0], low), torch.maximum(now[1], high)])
        self._remember(torch.where(self.ready, wider, now))

    @torch.no_grad()
    def update(self) -> None:
        if self._observed is None:
            return
        start = torch.where(self.ready, self.range, self._observed)
        self._remember(torch.lerp(self._observed, start, self.decay))
        self._observed = None

    def _remember(self, values: Tensor) -> None:
        self.range_bytes.copy_(to_bytes(values, torch.float32))
        self.ready.fill_(True)
