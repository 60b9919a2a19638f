"""A precision that is decided."""

import torch
from torch import Tensor

from ...core import Usage, constant
from ..choice import Choice
from .base import GATES, Gate


@GATES.register("fixed")
class FixedGate(Gate):
    """One given precision per sub-group, kept in the buffer `bits`."""

    searching = False
    by_group = ("bits",)

    def __init__(self, groups: int, candidates: tuple[int, ...]):
        super().__init__(groups, candidates)
        self.register_buffer("bits", torch.full((groups,), candidates[-1], dtype=torch.uint8))

    def initialise(self, bits: tuple[int, ...] | None) -> None:
        bits = (self.candidates[-1],) * self.groups if bits is None else bits
        unknown = sorted(set(bits) - set(self.candidates))
        if unknown:
            raise ValueError(f"bits {unknown} are not among the candidates {self.candidates}")
        self.bits.copy_(torch.tensor(bits, dtype=torch.uint8))

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        given = state_dict.get(f"{prefix}bits")
        if given is not None and not given.is_meta and not set(given.tolist()) <= set(self.candidates):
            errors.append(
                f"{prefix}bits has precisions {sorted(set(given.tolist()))}, and this model offers {self.candidates}: "
                "load the folder with from_pretrained, or make the model with the config that the weights have"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)

    def choose(self) -> Choice:
        candidates = constant(self.candidates, torch.int64, self.bits.device)
        if len(self.candidates) == 1:
            return Choice(index=constant((0,), torch.int64, self.bits.device).expand(self.groups))
        return Choice(index=torch.searchsorted(candidates, self.bits.long()))

    def usage(self) -> Usage:
        if len(self.candidates) == 1:
            return self._usage_of(constant(((1.0,),), torch.float32, self.bits.device).expand(self.groups, 1))
        chosen = constant(self.candidates, torch.int64, self.bits.device) == self.bits.long().unsqueeze(1)
        return self._usage_of(chosen.float())

    def derive(self) -> Tensor:
        return self.bits.long()
