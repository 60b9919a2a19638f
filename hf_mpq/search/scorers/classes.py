"""To which class each example, or each token, of a batch belongs, for every head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .passes import Batch, real_tokens, without_padding
from .task_loss import IGNORED, task_loss

MOST_CLASSES = 64
"""Above this many (a masked language model's vocabulary), runs of neighbouring classes count as one."""


@dataclass(frozen=True)
class Classing:
    """The classes of a task.

    Labels are used where a batch has them, else the model's predictions. A regression's values are cut into `bins` of
    equal width; so are start positions of spans, by their place in the longest window. Classes above `MOST_CLASSES`
    are joined into `bins` runs of neighbours. A bare model has one class.

    Attributes:
        count: how many there are.
        bins: for values and positions.
        low, high: smallest and largest value (regression), or 0 and the longest window (spans).
    """

    count: int
    bins: int
    low: float = 0.0
    high: float = 1.0

    @classmethod
    def of(cls, model: nn.Module, batches: Sequence[Batch], bins: int) -> "Classing":
        """Look at a first output, and for a regression without labels at all of them."""
        with torch.no_grad():
            output = model(**batches[0].inputs)
            if "start_logits" in output:
                return cls(bins, bins, 0.0, max(map(_longest, batches)))
            if "logits" not in output:
                return cls(1, bins)
            classes = output["logits"].shape[-1]
            if classes == 1:
                values = torch.cat([_values(model, batch) for batch in batches])
                return cls(bins, bins, float(values.min()), float(values.max()))
        return cls(classes, bins, 0.0, classes) if classes <= MOST_CLASSES else cls(bins, bins, 0.0, classes)

    def classes(self, output: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """`(batch,)`, or of a token head `(batch, tokens)`, int64; `IGNORED` counts for nothing."""
        if "start_logits" in output:
            given = batch.labels.get("start_positions")
            found = without_padding(output["start_logits"], batch.mask).argmax(-1) if given is None else given
            return self._binned(found)
        if "logits" not in output:
            return output[0].new_zeros(len(batch), dtype=torch.long)
        logits, labels = output["logits"], batch.target
        if logits.shape[-1] == 1:
            return self._binned((logits if labels is None else labels).reshape(len(batch)))
        if labels is None or labels.is_floating_point():
            labels = logits.argmax(-1)
        known = (labels >= 0) if batch.mask is None or labels.dim() == 1 else (labels >= 0) & batch.mask
        classes = labels if logits.shape[-1] == self.count else self._binned(labels)
        return torch.where(known, classes, IGNORED)

    def _binned(self, values: Tensor) -> Tensor:
        width = (self.high - self.low) or 1.0
        return ((values.double() - self.low) / width * self.bins).long().clamp(0, self.bins - 1)


def importance_loss(output: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """What a neuron's importance is measured by, summed over examples: the task's loss; a regression's predicted value;
    of a bare model the sum of absolute hidden states of real tokens (their squares are fixed by normalisation)."""
    if "logits" in output and output["logits"].shape[-1] == 1:
        return output["logits"].sum()
    if "logits" in output or "start_logits" in output:
        return task_loss(output, batch)
    return real_tokens(output[0], batch.mask).abs().sum()


def _longest(batch: Batch) -> float:
    """Tokens up to the last real one of any example."""
    if batch.mask is None:
        return batch.inputs["input_ids"].shape[1]
    return int(batch.mask.any(0).nonzero().max()) + 1


def _values(model: nn.Module, batch: Batch) -> Tensor:
    labels = batch.target
    return (model(**batch.inputs)["logits"] if labels is None else labels).float().flatten()
