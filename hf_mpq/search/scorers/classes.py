"""To which class each example, or each token, of a batch belongs, for every head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...nn.heads import LABELS, VALUES, Decisions, decisions_of
from .passes import Batch
from .task_loss import IGNORED, task_loss

MOST_CLASSES = 64
"""Above this many (a masked language model's vocabulary), runs of neighbouring classes count as one."""
Outputs = Mapping[str, Decisions]


@dataclass(frozen=True)
class Classing:
    """The classes of a task.

    Labels are used where a batch has them, else the model's predictions. A regression's values are cut into `bins` of
    equal width; so are start positions of spans, by their place in the longest window. Of several labels at once the
    rarest that holds counts, and one class more is for texts without any. Classes above `MOST_CLASSES` are joined into
    `bins` runs of neighbours. A bare model, and a head of several values, has one class.

    Attributes:
        count: how many there are.
        bins: for values and positions.
        low, high: smallest and largest value (regression), or 0 and the longest window (spans).
        held: how often each of several labels holds, `(labels,)`; None for other heads.
    """

    count: int
    bins: int
    low: float = 0.0
    high: float = 1.0
    held: Tensor | None = None

    @classmethod
    def of(cls, model: nn.Module, batches: Sequence[Batch], bins: int) -> "Classing":
        """Look at a first output; for a regression, and for several labels at once, at all of them."""
        with torch.no_grad():
            outputs = _outputs(model, batches[0])
            if "start_logits" in outputs:
                return cls(bins, bins, 0.0, max(map(_longest, batches)))
            first = _first(outputs)
            classes = first.scores.shape[-1]
            if first.kind == VALUES:
                values = [_values(model, batch) for batch in batches] if classes == 1 else []
                return cls(bins, bins, *_ends(torch.cat(values))) if values else cls(1, bins)
            if first.kind == LABELS:
                held = sum(_labels(_outputs(model, batch), batch).sum(0) for batch in batches)
                return cls(classes + 1, bins, 0.0, classes + 1, held)
        return cls(classes, bins, 0.0, classes) if classes <= MOST_CLASSES else cls(bins, bins, 0.0, classes)

    def classes(self, outputs: Outputs, batch: Batch) -> Tensor:
        """`(batch,)`, or of a token head `(batch, tokens)`, int64; `IGNORED` counts for nothing."""
        if "start_logits" in outputs:
            given = batch.labels.get("start_positions")
            return self._binned(outputs["start_logits"].scores.argmax(-1) if given is None else given)
        kind, scores, labels = _first(outputs).kind, _first(outputs).scores, batch.target
        width = scores.shape[-1]
        if kind == VALUES and width != 1:
            return scores.new_zeros(len(batch), dtype=torch.long)
        if kind == VALUES:
            return self._binned((scores if labels is None else labels).reshape(len(batch)))
        if kind == LABELS:
            return self._rarest(_labels(outputs, batch))
        if labels is None or labels.is_floating_point():
            labels = scores.argmax(-1)
        known = (labels >= 0) if batch.mask is None or labels.dim() == 1 else (labels >= 0) & batch.mask
        return torch.where(known, labels if width == self.count else self._binned(labels), IGNORED)

    def _rarest(self, held: Tensor) -> Tensor:
        """`(batch, labels)` bool to `(batch,)`."""
        often = torch.where(held, self.held, torch.inf)
        return torch.where(held.any(1), often.argmin(1), held.shape[1])

    def _binned(self, values: Tensor) -> Tensor:
        width = (self.high - self.low) or 1.0
        return ((values.double() - self.low) / width * self.bins).long().clamp(0, self.bins - 1)


def importance_loss(outputs: Outputs, batch: Batch) -> Tensor:
    """What a neuron's importance is measured by, summed over examples: the task's loss; a regression's predicted
    values; of a bare model the sum of absolute hidden states of real tokens (their squares are fixed by
    normalisation)."""
    if _first(outputs).kind != VALUES:
        return task_loss(outputs, batch)
    return outputs["logits"].rows.sum() if "logits" in outputs else _first(outputs).rows.abs().sum()


def _outputs(model: nn.Module, batch: Batch) -> Outputs:
    return decisions_of(model.config, model(**batch.inputs), batch.mask)


def _first(outputs: Outputs) -> Decisions:
    """All that most heads have."""
    return next(iter(outputs.values()))


def _labels(outputs: Outputs, batch: Batch) -> Tensor:
    """Which labels hold, `(batch, labels)` bool."""
    return (_first(outputs).rows if batch.target is None else batch.target) > 0


def _ends(values: Tensor) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _longest(batch: Batch) -> float:
    """Tokens up to the last real one of any example."""
    if batch.mask is None:
        return batch.inputs["input_ids"].shape[1]
    return int(batch.mask.any(0).nonzero().max()) + 1


def _values(model: nn.Module, batch: Batch) -> Tensor:
    labels = batch.target
    return (_first(_outputs(model, batch)).scores if labels is None else labels).float().flatten()
