"""One-to-one self-teaching through switches."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from .base import OBJECTIVES, Objective, Signals
from .layers import Pairs, layer_pairs, pairs_with
from .padding import mean_of_tokens
from .precision import in_float32
from .switch import SwitchControl, open_probability

MAPS = ("hidden", "attention_output")
GUARD = 4.0


@OBJECTIVES.register("self-teaching")
class SelfTeaching(Objective):
    """One-to-one self-teaching with the switch control machine (GHOST, Zhang et al. 2023; formulas from the authors'
    code): the sum over layers of `m_l mean_tokens (v_s - v_t)^2`, with `v_l` the energy `mean_features F^2` of the real
    tokens, normalised to unit length, and `m_l` a switch for each example and layer.

    The paper weighs this term with 400 and doubles the task's: `{"task": {"weight": 2}, "self-teaching": {"weight":
    400, "train_switch": False, "norm": "batch"}}`.

    Reconstructed for encoders: spatial positions become tokens, channels features; the maps are each layer's output and
    its attention output as projected, before the residual and its LayerNorm, which pre-norm families do not have there.
    A LayerNorm makes the energy of tokens nearly equal, so `"hidden"` says less in post-norm families.

    Ours: LayerNorm instead of BatchNorm by default, so that a batch may be split; and the guard. Closing a trained
    switch always lowers the term, so one that is trained pays `4 relu(min_open - p) sum_l d_l`, with p the chance that
    an example's switches are open, averaged over its layers, and d_l its errors, without gradient. Switches then choose
    which layers of an example may differ, not whether any is taught.

    Args:
        maps: any of `"hidden"` and `"attention_output"`.
        layers: the student's layer to the teacher's, numbered from 1; None maps all uniformly.
        train_switch: train the switches' parameters; False keeps the random ones, as the authors' code does.
        min_open: the guard's share; 0 for none.
        norm: in the switches: `"layer"`, or `"batch"` as in the paper, which needs two examples in every batch.
        temperature: of the switches.

    Raises:
        ValueError: for an option that is not possible.
    """

    needs_teacher = True

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        weight: float = 1.0,
        maps: Sequence[str] = MAPS,
        layers: Mapping[int, int] | None = None,
        train_switch: bool = True,
        min_open: float = 0.5,
        norm: str = "layer",
        temperature: float = 1.0,
    ):
        super().__init__(student, teacher, weight)
        if isinstance(maps, str) or not maps or not set(maps) <= set(MAPS):
            raise ValueError(f"maps must be a list of any of {', '.join(MAPS)}; got {maps!r}")
        if not 0 <= min_open < 1:
            raise ValueError(f"min_open must be at least 0 and below 1, got {min_open}")
        self.features, self.pairs = tuple(dict.fromkeys(maps)), layer_pairs(student, teacher, 1, layers)
        self.min_open = min_open if train_switch else 0.0
        widths, count = (student.config.hidden_size, teacher.config.hidden_size), len(self.features) * len(self.pairs)
        self.switch = SwitchControl(*widths, count, norm, temperature).requires_grad_(train_switch)
        self._open, self._batches = 0.0, 0

    @in_float32
    def forward(self, student: Signals, teacher: Signals, batch: Mapping[str, Tensor]) -> Tensor:
        pairs = pairs_with(teacher, self.pairs)
        ours, theirs = self._chosen(student, pairs, 0), [one.detach() for one in self._chosen(teacher, pairs, 1)]
        means = ([mean_of_tokens(feature, student.mask) for feature in side] for side in (ours, theirs))
        logits = self.switch(*means)  # (batch, switches)
        switches, errors = self.switch.open(logits), _errors(ours, theirs, student.mask)
        self._open, self._batches = self._open + switches.detach().mean(), self._batches + 1
        closed = (self.min_open - open_probability(logits).mean(1)).relu()
        return ((switches * errors).sum(1) + GUARD * closed * errors.detach().sum(1)).mean()

    def metrics(self) -> dict[str, float]:
        """Share of open switches since the last call."""
        total, batches = float(self._open), self._batches
        self._open, self._batches = 0.0, 0
        return {"open_switches": total / batches} if batches else {}

    def _chosen(self, side: Signals, pairs: Pairs, which: int) -> list[Tensor]:
        """Features of one side for each switch, in float32."""
        starts = {"hidden": 0, "attention_output": 1}
        chosen = ((name, pair[which] - starts[name]) for name in self.features for pair in pairs)
        return [side.features[name][position].float() for name, position in chosen]


def _errors(student: list[Tensor], teacher: list[Tensor], mask: Tensor | None) -> Tensor:
    """Mean squared difference of the maps over real tokens, `(batch, switches)`."""
    maps = ((_energy_map(ours, mask) - _energy_map(theirs, mask)).square() for ours, theirs in zip(student, teacher))
    return torch.stack([mean_of_tokens(one, mask) for one in maps], dim=1)


def _energy_map(feature: Tensor, mask: Tensor | None) -> Tensor:
    """Energy of each token, unit length over the real tokens of each example: `(batch, tokens)`."""
    energy = feature.square().mean(-1)
    return normalize(energy if mask is None else energy.masked_fill(~mask, 0), dim=-1)
