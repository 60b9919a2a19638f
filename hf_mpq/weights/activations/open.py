"""An input whose bits are still open."""

import copy

import torch
from torch import Tensor, nn

from ...core import ActivationSpec, constant
from ..choice import Choice
from ..gates import GATES, FollowingGate, Gate
from ..roles import LearnedPart
from .base import ACTIVATIONS, ActivationGrid, ActivationQuantizer
from .mixture import ActivationMixture


class OpenActivation(ActivationQuantizer):
    """`sum_k p_k Q_k(x)` with the choice of a gate of one group, or one `Q_k(x)` where that is its choice.

    Each candidate has a quantizer of its own, with what it learns or observes (a clip, a step, a range), as in Risso et
    al., 2022. Quantizers that only round are mixed in one operation. Under a gate that sets the grid there is one
    quantizer, whose range all bits share.

    Attributes:
        gate: yields the bits.
        quantizers: of each candidate, or the only one.
    """

    def __init__(self, spec: ActivationSpec):
        LearnedPart.__init__(self)
        self._spec, candidates = spec, spec.candidates
        self.gate: Gate
        if spec.follows:
            self.gate = FollowingGate(candidates)
        else:
            self.gate = GATES.make(spec.gate, 1, candidates, options=spec.gate_options)
        own = candidates[-1:] if self.gate.sets_grid else candidates
        made = (ACTIVATIONS.make(spec.quantizer, bits=bits, options=spec.options) for bits in own)
        self.quantizers = nn.ModuleList(made)
        self.gate.decide_for(self.quantizers[-1])

    @property
    def name(self) -> str:
        return self._spec.quantizer

    @property
    def stored_bytes(self) -> int:
        return ACTIVATIONS[self.name].stored_bytes

    @property
    def spec(self) -> ActivationSpec:
        return self._spec

    @property
    def options(self) -> dict:
        return dict(self._spec.options)

    @property
    def symmetric(self) -> bool:
        return self.quantizers[0].symmetric

    @property
    def bits(self) -> int:
        """What the gate would give now."""
        return int(self.gate.derive())

    @property
    def open_gate(self) -> Gate | None:
        return self.gate

    def follow(self, program: nn.Module) -> None:
        """Where the bits go with a matrix: go with that of this `WeightProgram`."""
        if self._spec.follows:
            self.gate.follow(program)

    def decided(self, bits: int) -> ActivationQuantizer:
        """A copy of the candidate's quantizer; of the highest, over its range, for bits that are no candidate."""
        candidates = self._spec.candidates
        position = candidates.index(bits) if bits in candidates and not self.gate.sets_grid else -1
        return copy.deepcopy(self.quantizers[position]).decided(bits)

    def grid(self, x: Tensor) -> ActivationGrid:
        return self._likeliest.grid(x)

    def fake_quantized(self, x: Tensor) -> Tensor:
        choice = self.gate()
        if self.gate.sets_grid:
            return self._on_its_grid(x, choice)
        if choice.probabilities is None:
            return self.quantizers[int(choice.index)].fake_quantized(x)
        shares = choice.probabilities[0]
        if self.quantizers[0].straight_through:
            return ActivationMixture.apply(x, shares, [one.grid(x.detach()) for one in self.quantizers])
        return sum(share * one.fake_quantized(x) for share, one in zip(shares.to(x.dtype), self.quantizers))

    def _on_its_grid(self, x: Tensor, choice: Choice) -> Tensor:
        """On the levels that the gate sets, or all those of the candidate that it is at."""
        one = self.quantizers[0]
        if choice.levels is not None:
            return one.on_levels(x, *choice.levels)
        bits = constant(self._spec.candidates, torch.int64, choice.index.device)[choice.index]
        highest = (2 ** (bits - 1) - 1).float()
        return one.on_levels(x, one.largest() / highest, highest)

    def rounded(self, x: Tensor) -> Tensor:
        return self.fake_quantized(x.detach())

    def reset(self) -> None:
        for one in self.quantizers:
            one.reset()

    def calibrate(self, x: Tensor) -> None:
        for one in self.quantizers:
            one.calibrate(x)
        self.gate.decide_for(self.quantizers[-1])

    def update(self) -> None:
        for one in self.quantizers:
            one.update()
        self.gate.update()

    def frozen(self) -> ActivationQuantizer:
        return self._likeliest.frozen()

    @property
    def _likeliest(self) -> ActivationQuantizer:
        if self.gate.sets_grid:
            return self.decided(self.bits)
        return self.quantizers[self._spec.candidates.index(self.bits)]
