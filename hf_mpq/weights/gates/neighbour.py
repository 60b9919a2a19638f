"""A draw between two neighbouring precisions, lower and lower ones."""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot, pad

from ...core import Usage, constant, replace_forward
from ..choice import Choice
from .base import GATES, SMALLEST
from .tempered import TemperedGate


@GATES.register("neighbour")
class NeighbourGate(TemperedGate):
    """Each sub-group is at its rung, the upper of two neighbouring candidates, with a learned probability beta, else at
    the one below (SDQ; Huang et al., ICML 2022). The rung is the highest candidate at first; `descend` takes it down
    where beta is small, and nothing takes it up again.

    A forward pass in training uses the drawn candidate alone, and beta gets the gradient of the draw's relaxation
    `sigmoid((logit + g) / t)`, the binary concrete, with g the difference of two Gumbel variables (Maddison et al.,
    2017). What `redraw` drew last is the same in every pass until it draws again; before its first call it is drawn
    anew in each forward pass, from torch's generator. In evaluation the likelier of the two is used.

    Args:
        temperature: t.
        draw: False mixes the two by beta, without noise: the linear interpolation that the paper compares with.

    Attributes:
        logits: of beta, `(groups, candidates - 1)`, for each pair of neighbours; only the rung's is used, and those
            below wait where they started. They are kept within plus and minus `LARGEST`, beta within 0.05 and 0.95:
            what is surer has next to no gradient, and noise that made it so would have decided for good.
        rung: position of the upper candidate, `(groups,)`.
    """

    LARGEST = math.log(19)
    first_logit = math.log(9)
    _drawn: Tensor | None = None

    def __init__(self, groups: int, candidates: tuple[int, ...], temperature: float = 1.0, draw: bool = True):
        super().__init__(groups, candidates, max(len(candidates) - 1, 1), temperature)
        self.draw = draw
        self.register_buffer("rung", torch.full((groups,), len(candidates) - 1))

    def initialise(self, bits: tuple[int, ...] | None) -> None:
        super().initialise(bits)
        self.rung.fill_(len(self.candidates) - 1)

    @torch.no_grad()
    def start(self, preferences: Tensor) -> None:
        """The rung is what is preferred most, the highest of equals, and logits are how much more than the neighbour
        below."""
        count = len(self.candidates)
        highest = count - 1 - preferences.flip(1).argmax(1)
        self.rung.copy_(highest.clamp(min=min(1, count - 1)))
        self.logits[:, : count - 1] = preferences.diff(dim=1).to(self.logits)
        self.update()

    @torch.no_grad()
    def update(self) -> None:
        self.logits.clamp_(-self.LARGEST, self.LARGEST)

    @torch.no_grad()
    def descend(self, threshold: float) -> bool:
        left = (torch.sigmoid(self._logit()) < threshold) & (self.rung > 0)
        self.rung.sub_(left.to(self.rung.dtype))
        return bool(left.any())

    def redraw(self, generator: torch.Generator) -> None:
        self._drawn = _noise(self.groups, generator).to(self.logits)

    def choose(self) -> Choice:
        logit = self._logit()
        if not self.training:
            return Choice(probabilities=self._neighbours((logit > 0).to(logit.dtype)))
        if not self.draw:
            return Choice(probabilities=self._neighbours(torch.sigmoid(logit)))
        noise = _noise(self.groups).to(logit) if self._drawn is None else self._drawn
        relaxed = torch.sigmoid((logit + noise) / self.temperature)
        return Choice(probabilities=self._neighbours(replace_forward(relaxed, (logit + noise > 0).to(logit.dtype))))

    def usage(self) -> Usage:
        """How often each is drawn, which the temperature does not change: beta, and the rest for the one below."""
        return self._usage_of(self._neighbours(torch.sigmoid(self._logit())))

    @torch.no_grad()
    def shares(self) -> Tensor:
        return self.usage().probabilities

    @torch.no_grad()
    def derive(self) -> Tensor:
        down = (self._logit() <= 0) & (self.rung > 0)
        return constant(self.candidates, torch.int64, self.rung.device)[self.rung - down.to(self.rung.dtype)]

    @torch.no_grad()
    def reluctance(self) -> Tensor:
        """Minus the logarithm of beta at the rung, of the probability of all the draws that lead down to a lower
        candidate, and of next to nothing for those that were left."""
        rung, logits = self.rung.cpu().unsqueeze(1), self.logits.cpu().double()[:, : len(self.candidates) - 1]
        place = torch.arange(len(self.candidates))
        steps = torch.where(place[:-1] < rung, -logsigmoid(-logits), 0.0)  # from each candidate's next one down to it
        walk = pad(steps.flip(1).cumsum(1).flip(1), (0, 1))
        stay = torch.where(rung > 0, -logsigmoid(self._logit().cpu().double()).unsqueeze(1), 0.0)
        return torch.where(place == rung, stay, walk).masked_fill(place > rung, -math.log(SMALLEST))

    def _logit(self) -> Tensor:
        """Of beta at the rung, `(groups,)`."""
        return self.logits.gather(1, (self.rung - 1).clamp(min=0).unsqueeze(1)).squeeze(1)

    def _neighbours(self, upper: Tensor) -> Tensor:
        """The share `upper` `(groups,)` at the rung and the rest below it: `(groups, candidates)`."""
        at = lambda place: one_hot(place, len(self.candidates)).to(upper.dtype)  # noqa: E731
        shares = upper.unsqueeze(1)
        return shares * at(self.rung) + (1 - shares) * at((self.rung - 1).clamp(min=0))


def _noise(groups: int, generator: torch.Generator | None = None) -> Tensor:
    """Differences of two Gumbel variables, `(groups,)`."""
    first, second = torch.empty(2, groups).exponential_(generator=generator)
    return (first / second).log()
