"""The contract of every gate."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import ClassVar

import torch
from torch import Tensor

from ...core import Registry, SubgroupLayout, Usage, constant
from ..choice import Choice
from ..ranges import RangedPart
from ..roles import GATE_PARAMETERS, LearnedPart

SMALLEST = 1e-30
"""Probabilities count as at least this, so that every candidate stays possible."""
GATES: Registry[type["Gate"]] = Registry("gate")


class Gate(LearnedPart, ABC):
    """Yields the precision of each of `groups` sub-groups out of `candidates`.

    Attributes:
        searching: whether the precision is still open; False once it is one per sub-group.
        sets_grid: whether its own choice is levels; a path is a candidate all the same.
        limited: whether `allow` can take candidates away.
        by_part: of a gate with `by_group`, names of all its other tensors, one number each, to be divided by.
        selects_planes: whether its choice is bit planes of the weight's source, which are rounded by nothing else.
        sets_width: whether it decides all sub-groups together, keeping them from the first one on, and what reads their
            outputs gets `kept` of them.
    """

    searching = True
    sets_grid: ClassVar[bool] = False
    limited: ClassVar[bool] = False
    by_part: ClassVar[tuple[str, ...]] = ()
    selects_planes: ClassVar[bool] = False
    sets_width: ClassVar[bool] = False
    group = GATE_PARAMETERS

    def __init__(self, groups: int, candidates: tuple[int, ...]):
        super().__init__()
        self.groups = groups
        self.candidates = candidates

    active: int | None = None
    """The one precision that all sub-groups use, of a gate that is switched; None of others."""
    _path: Tensor | None = None

    def role_of(self, name: str) -> str:
        """All that a gate learns is of the search."""
        return GATE_PARAMETERS

    def forward(self) -> Choice:
        """What this forward pass uses: the path that was taken, else the gate's own choice."""
        return self.choose() if self._path is None else Choice(index=self._path)

    def decide_for(self, quantizer: RangedPart) -> None:
        """Look at the quantizer that it chooses for: when they are put together, and whenever scales were set anew. A
        gate that sets the grid starts from what the quantizer has.

        Raises:
            ValueError: when it cannot choose for such a quantizer.
        """

    @abstractmethod
    def choose(self) -> Choice:
        """The gate's own choice in this forward pass."""

    @property
    def device(self) -> torch.device:
        """Where what it has is."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def path(self) -> Tensor | None:
        """The path that was taken, `(groups,)` positions in the candidates; None while the gate chooses."""
        return self._path

    def take(self, path: Tensor | None) -> None:
        """Use one candidate for each sub-group in the forward passes that follow; None lets the gate choose again.

        What the gate expects and derives does not change, and a path is not saved.

        Args:
            path: positions in the candidates, `(groups,)` integers.

        Raises:
            ValueError: for another shape, or a position that there is none of.
        """
        if path is not None:
            path = path.to(self.device, torch.int64)
            if path.shape != (self.groups,) or not ((path >= 0) & (path < len(self.candidates))).all():
                raise ValueError(f"a path is a position in {self.candidates} for each of {self.groups} sub-groups")
        self._path = path

    @property
    def allowed(self) -> Tensor:
        """Candidates that paths may take now, `(groups, candidates)` bool."""
        return torch.ones(self.groups, len(self.candidates), dtype=torch.bool)

    def allow(self, allowed: Tensor) -> None:
        """Let paths take these candidates alone, `(groups, candidates)` bool, from now on; it is saved.

        Raises:
            ValueError: for another shape, a sub-group without any, or a gate that is not `limited`.
        """
        raise ValueError(f"a gate of {type(self).__name__} always has all candidates; choose gate='sampled'")

    def highest_path(self) -> Tensor:
        """The path of the highest precisions that are allowed, `(groups,)` int64."""
        return len(self.candidates) - 1 - self.allowed.flip(1).int().argmax(1)

    def random_path(self, generator: torch.Generator) -> Tensor:
        """A path drawn evenly from what is allowed, `(groups,)` int64 on the CPU, as the generator."""
        return torch.multinomial(self.allowed.cpu().double(), 1, generator=generator).squeeze(1)

    @abstractmethod
    def usage(self) -> Usage:
        """What is expected, without noise; differentiable where the gate is."""

    @abstractmethod
    def derive(self) -> Tensor:
        """The precision that each sub-group would get now: `(groups,)` int64."""

    @torch.no_grad()
    def reluctance(self) -> Tensor:
        """How little the gate wants each candidate: `(groups, candidates)` float64 on the CPU, at least 0 and finite.
        The sum over sub-groups of what is chosen is what a decision makes small; here 0 for what `derive` gives."""
        chosen = self.derive().cpu().unsqueeze(1) == torch.tensor(self.candidates)
        return torch.where(chosen, 0.0, -math.log(SMALLEST)).double()

    @torch.no_grad()
    def shares(self) -> Tensor:
        """Weight of each candidate in what a forward pass uses, without noise: `(groups, candidates)`."""
        derived = self.derive().unsqueeze(1)
        return (derived == constant(self.candidates, torch.int64, derived.device)).float()

    @torch.no_grad()
    def uncertainty(self) -> Tensor:
        """How far each sub-group is from decided, `(groups,)`, 0 to below 1: one minus the largest probability."""
        return 1 - self.usage().probabilities.amax(1)

    def start(self, preferences: Tensor) -> None:
        """Begin from how much each candidate is preferred, `(groups, candidates)`, in units of a logit; higher is
        better.

        Raises:
            ValueError: when the gate has no such start.
        """
        raise ValueError(f"a gate of {type(self).__name__} cannot start from preferences; choose gate='softmax'")

    def set_precision(self, bits: int) -> None:
        """Use one precision for all sub-groups; raises ValueError where the gate is not switched."""
        raise ValueError(f"a gate of {type(self).__name__} chooses precisions itself; nested codes need gate='switch'")

    def set_temperature(self, temperature: float) -> None:
        """Set how soft the choice is, where the gate has a temperature."""

    def kept(self) -> Tensor | None:
        """The share of each sub-group's outputs that is passed on in this forward pass, `(groups,)` and differentiable;
        None for all of them."""
        return None

    def pass_on(self, x: Tensor, layout: SubgroupLayout) -> Tensor:
        """What readers get of the outputs `x` of the first shard, `(..., rows)`: `kept` times them."""
        kept = self.kept()
        return x if kept is None else x * layout.expand(kept)[: x.shape[-1]].to(x.dtype)

    def prefixes(self) -> list[tuple[Tensor, float]]:
        """Where sub-groups are decided together: what may be decided, as the bits of each, `(groups,)` on the CPU, with
        how little it is wanted. Empty where each sub-group is decided for itself."""
        return []

    def expand(self, threshold: float) -> bool:
        """Where the gate lets candidates in one by one: open the next one where the last is used more than `threshold`
        times as often as if all were alike. Returns whether it opened any."""
        return False

    def descend(self, threshold: float) -> bool:
        """Where the gate walks down its candidates one by one: leave, for good, those that are used less often than
        `threshold`, a probability. Returns whether it left any."""
        return False

    def metrics(self) -> dict[str, float]:
        """What logs show of the gate, the same for all gates of a search."""
        return {}

    def redraw(self, generator: torch.Generator) -> None:
        """Take the noise of the passes that follow from a generator on the CPU, where the gate has any."""

    @classmethod
    def redraw_all(cls, gates: Sequence["Gate"], generator: torch.Generator) -> None:
        """`redraw` of gates of this class, in order."""
        for gate in gates:
            gate.redraw(generator)

    def update(self) -> None:
        """Called once per optimizer step, outside autograd."""

    def initialise(self, bits: tuple[int, ...] | None) -> None:
        """Set the start; `bits` `(groups,)` where the precision is given."""

    def _candidate_bits(self, like: Tensor) -> Tensor:
        return constant(self.candidates, like.dtype, like.device)

    def _usage_of(self, probabilities: Tensor) -> Usage:
        zero = self.candidates.count(0)
        keep = probabilities[:, zero:].sum(1) if zero else probabilities.new_ones(len(probabilities))
        bits = probabilities @ self._candidate_bits(probabilities)
        return Usage(bits=bits, keep=keep, probabilities=probabilities)
