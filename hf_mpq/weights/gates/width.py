"""How many of the first sub-groups are kept, as one choice for a whole matrix."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, pad

from ...core import SubgroupLayout, Usage
from ..choice import Choice
from ..ranges import RangedPart
from .base import GATES, SMALLEST
from .tempered import TemperedGate

SURE = 0.95
"""A widest candidate that is preferred more than this lets a wider one in, however few there are."""
LATER = 1e-9
"""What a sub-group is given up more readily than the one before it, where widths do not tell them apart."""


@GATES.register("width")
class WidthGate(TemperedGate):
    """Keeps sub-groups from the first one on, in every shard alike, at the one precision beside 0, and prunes the rest:
    the widths of neural channel expansion (Park et al., 2022), mixed where they are read.

    With `pi = softmax(logits / temperature)` over the widths `f_j` that are open, sub-group `i` is kept to the share
    `kappa_i`, the sum of `pi_j` over `f_j > i`. The weight itself is that of the widest; what reads its output is given
    `kappa` times that: `sum_j pi_j A[:, :f_j] g(B[:f_j] x) = A diag(kappa) g(B x)`.

    Args:
        steps: widths are multiples of this part of all sub-groups.
        least: the narrowest width, in steps.
        mixing: how widths are mixed where they are read: `"columns"`, or `"interpolation"`, which brings the outputs of
            each to the width of the widest by adaptive mean pooling over them first, as in TAS. Then they are other
            outputs than those of the columns that read them; it is there for comparison.
        drawn: so many widths are mixed in training, drawn without replacement for each step with Gumbel noise, and
            weighed by their noisy logits, as in TAS (Dong and Yang, NeurIPS 2019); 0 mixes all, without noise.

    Attributes:
        logits: `(1, widths)`, the narrowest first.
        open: the widths that are candidates now, `(widths,)` bool.

    Raises:
        ValueError: for numbers that do not fit together.
    """

    sets_width = True
    _drawn: tuple[Tensor, Tensor] | None = None

    def __init__(
        self,
        groups: int,
        candidates: tuple[int, ...],
        temperature: float = 1.0,
        steps: int = 12,
        least: int = 4,
        drawn: int = 0,
        mixing: str = "columns",
    ):
        if not 1 <= least <= steps or drawn < 0 or drawn == 1:
            raise ValueError(
                f"least is 1 to steps, and drawn 0 or at least 2; got steps={steps}, least={least}, drawn={drawn}"
            )
        if mixing not in ("columns", "interpolation"):
            raise ValueError(f"mixing must be 'columns' or 'interpolation', got {mixing!r}")
        super().__init__(1, candidates, steps - least + 1, temperature)
        self.groups, self.shards, self.steps, self.least, self.mixed = groups, 1, steps, least, drawn
        self.interpolates = mixing == "interpolation"
        self.register_buffer("open", torch.ones(steps - least + 1, dtype=torch.bool))
        self.initialise(None)

    @torch.no_grad()
    def initialise(self, bits: tuple[int, ...] | None) -> None:
        super().initialise(bits)
        self._drawn = None
        self.open.copy_(self._distinct())

    @torch.no_grad()
    def decide_for(self, quantizer: RangedPart) -> None:
        """Learn how many shards there are.

        Raises:
            ValueError: for other candidates than 0 and one precision, and for columns.
        """
        if len(self.candidates) != 2 or self.candidates[0] != 0:
            raise ValueError(
                "gate='width' keeps or prunes at one precision: give 0 and that, such as bits=(0, 2); got "
                f"{self.candidates}"
            )
        layout = getattr(quantizer, "layout", None)
        if layout is None or layout.axis:
            raise ValueError("gate='width' chooses rows of a weight: groups must cut rows, not columns")
        if layout.shards != self.shards:
            self.shards = layout.shards
            self.open.logical_and_(self._distinct().to(self.open.device))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sub-groups of each shard that a width keeps, ascending; few sub-groups make some widths equal."""
        whole = self.groups // self.shards
        return tuple(max(round(step * whole / self.steps), 1) for step in range(self.least, self.steps + 1))

    def _distinct(self) -> Tensor:
        """Widths that are no repetition of the one before."""
        sizes = torch.tensor(self.sizes)
        return torch.cat([torch.ones(1, dtype=torch.bool), sizes.diff() > 0])

    @torch.no_grad()
    def close_above(self, groups: int) -> None:
        """Leave the widths that keep at most so many sub-groups of each shard, and the next wider one where none of
        them is as wide."""
        below = sum(size < groups for size in self.sizes)
        self.open.copy_(self._distinct())
        self.open[below + 1 :] = False

    @torch.no_grad()
    def expand(self, threshold: float) -> bool:
        """Open the next wider candidate where the widest one is preferred more than `threshold` times as much as if all
        were alike. It gets half of that one's share: no sub-group that was kept before changes its own."""
        widest = int(self.open.nonzero().max())
        wider = [place for place in self._distinct().nonzero().flatten().tolist() if place > widest]
        preferred = float(self._preferences()[widest])
        if not wider or preferred <= min(threshold / int(self.open.sum()), SURE):
            return False
        unit = 1.0 if self.mixed else float(self.temperature)
        self.logits[0, [widest, wider[0]]] = self.logits[0, widest] - unit * math.log(2)
        self.open[wider[0]] = True
        return True

    def choose(self) -> Choice:
        """All of the weight: a mixture is what its readers get."""
        return Choice(index=torch.ones(self.groups, dtype=torch.int64, device=self.logits.device))

    def kept(self) -> Tensor:
        if self.path is not None:
            return (self.path > 0).to(self.logits.dtype)
        return self._kept(self._shares())

    def pass_on(self, x: Tensor, layout: SubgroupLayout) -> Tensor:
        if self.path is not None or not self.interpolates:
            return super().pass_on(x, layout)
        ends, shares = torch.tensor(layout.sizes[: self.groups // self.shards]).cumsum(0).tolist(), self._shares()
        mixed = shares.nonzero().flatten().tolist()
        widest = ends[self.sizes[mixed[-1]] - 1]
        flat, found = x.flatten(0, -2), torch.zeros((), device=x.device)
        for place in mixed:
            pooled = adaptive_avg_pool1d(flat[:, : ends[self.sizes[place] - 1]], widest)
            found = found + shares[place] * pooled
        return pad(found, (0, x.shape[-1] - widest)).view_as(x).to(x.dtype)

    def prefixes(self) -> list[tuple[Tensor, float]]:
        reluctance = -self._preferences().detach().cpu().double().clamp(min=SMALLEST).log()
        return [(self._bits(self.sizes[place]), float(reluctance[place])) for place in self._places()]

    def usage(self) -> Usage:
        shares = self._preferences() if self.mixed else torch.softmax(self._open_logits() / self.temperature, 0)
        keep = self._kept(shares)
        return Usage(bits=keep * self.candidates[-1], keep=keep, likeliest=self.derive(), prefix=True)

    def derive(self) -> Tensor:
        """The likeliest width that is open."""
        return self._bits(self.sizes[int(self._open_logits().argmax())]).to(self.logits.device)

    @torch.no_grad()
    def reluctance(self) -> Tensor:
        """0 for what is derived; for giving up a sub-group that it keeps, minus the logarithm of how likely it is
        pruned, and the other way round: what is given up first lies last."""
        keep = self.usage().keep.cpu().double()
        kept = self.derive().cpu() > 0
        last = torch.arange(self.groups // self.shards, 0, -1).repeat(self.shards) * LATER
        drop = -(1 - keep).clamp(min=SMALLEST).log() + last
        take = -keep.clamp(SMALLEST, 1).log() + LATER * (self.groups + 1) - last
        return torch.stack([torch.where(kept, drop, 0.0), torch.where(kept, 0.0, take)], dim=1)

    @torch.no_grad()
    def shares(self) -> Tensor:
        keep = self._kept(self._shares())
        return torch.stack([1 - keep, keep], dim=1)

    @torch.no_grad()
    def uncertainty(self) -> Tensor:
        return (1 - self._preferences().max()).clamp(min=0).expand(self.groups)

    @torch.no_grad()
    def start(self, preferences: Tensor) -> None:
        """The mean over all sub-groups of how much what a width makes of each is preferred."""
        for place, size in enumerate(self.sizes):
            chosen = (self._bits(size) > 0).long().unsqueeze(1).to(preferences.device)
            self.logits[0, place] = preferences.gather(1, chosen).mean()

    def redraw(self, generator: torch.Generator) -> None:
        """Draw the widths of the passes that follow, where not all are mixed."""
        if not self.mixed:
            return
        places = self._open_logits().detach().cpu()
        noise = -torch.empty(len(places)).exponential_(generator=generator).log()
        chances = torch.softmax((places.log_softmax(0) + noise) / self.temperature.cpu(), 0).clamp(min=SMALLEST)
        chances[~self.open.cpu()] = 0
        index = torch.multinomial(chances, min(self.mixed, int(self.open.sum())), generator=generator)
        self._drawn = noise.to(self.logits), index.to(self.logits.device)

    def highest_path(self) -> Tensor:
        return (self._bits(self.sizes[self._places()[-1]]) > 0).long().to(self.logits.device)

    def random_path(self, generator: torch.Generator) -> Tensor:
        places = self._places()
        return (self._bits(self.sizes[places[int(torch.randint(len(places), (), generator=generator))]]) > 0).long()

    def _places(self) -> list[int]:
        return self.open.nonzero().flatten().tolist()

    def _bits(self, size: int) -> Tensor:
        """Bits of all sub-groups at a width, `(groups,)` on the CPU."""
        kept = torch.arange(self.groups // self.shards, device="cpu") < size
        return (kept * self.candidates[-1]).repeat(self.shards)

    def _open_logits(self) -> Tensor:
        return self.logits[0].masked_fill(~self.open, -math.inf)

    def _preferences(self) -> Tensor:
        """`(widths,)`, without noise and temperature."""
        return torch.softmax(self._open_logits(), 0)

    def _shares(self) -> Tensor:
        if not self.mixed or not self.training or self._drawn is None:
            return torch.softmax(self._open_logits() / self.temperature, 0)
        noise, index = self._drawn
        noisy = (self._open_logits().log_softmax(0) + noise)[index] / self.temperature
        return torch.zeros_like(noise).scatter(0, index, torch.softmax(noisy, 0))

    def _kept(self, shares: Tensor) -> Tensor:
        made = _members if torch.compiler.is_compiling() else _kept_members
        kept = shares @ made(self.sizes, self.groups // self.shards, shares.dtype, shares.device)
        return kept.clamp(max=1).repeat(self.shards)


def _members(sizes: Sequence[int], groups: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Which width keeps which sub-group, `(widths, groups)`."""
    places, ends = torch.arange(groups, device="cpu"), torch.tensor(sizes, device="cpu")
    return (places < ends.unsqueeze(1)).to(device, dtype)


@lru_cache(maxsize=256)
def _kept_members(sizes: Sequence[int], groups: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same, made once and not to be written to: a copy to a GPU waits for what is under way there."""
    with torch.inference_mode(False):
        return _members(sizes, groups, dtype, device)
