"""What gates with logits and a temperature share."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base import Gate


class TemperedGate(Gate):
    """Learned logits over a temperature.

    Attributes:
        logits: `(groups, columns)`.
        temperature: a buffer, so that it is saved; schedules set it with `set_temperature`.
    """

    first_logit = 0.0
    """Where every logit starts."""

    def __init__(self, groups: int, candidates: tuple[int, ...], columns: int, temperature: float = 1.0):
        super().__init__(groups, candidates)
        if temperature <= 0:
            raise ValueError(f"the temperature must be above zero, got {temperature}")
        self.start_temperature = temperature
        self.logits = nn.Parameter(torch.full((groups, columns), self.first_logit))
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    def initialise(self, bits: tuple[int, ...] | None) -> None:
        nn.init.constant_(self.logits, self.first_logit)
        self.set_temperature(self.start_temperature)

    def set_temperature(self, temperature: float) -> None:
        """Set the temperature, above zero."""
        with torch.no_grad():
            self.temperature.fill_(temperature)

    def metrics(self) -> dict[str, float]:
        return {"temperature": float(self.temperature)}


@torch.no_grad()
def set_temperatures(gates: Sequence[Gate], temperature: float) -> None:
    """`gate.set_temperature(temperature)` of each, in one call for all that have one."""
    places: dict[torch.device, list[Tensor]] = {}
    for gate in gates:
        if isinstance(gate, TemperedGate):
            places.setdefault(gate.temperature.device, []).append(gate.temperature)
        else:
            gate.set_temperature(temperature)
    for several in places.values():
        torch._foreach_copy_(several, [torch.full_like(several[0], temperature)] * len(several))
