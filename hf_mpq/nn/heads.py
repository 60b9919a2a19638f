"""What a model's outputs decide, for every head: the one place that knows how they become probabilities."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from .pooling import EMBEDDING

CLASSES, LABELS, VALUES = "classes", "labels", "values"
SPANS = ("start_logits", "end_logits")


@dataclass(frozen=True)
class Decisions:
    """One output of a batch.

    Attributes:
        kind: `"classes"`, one of which holds; `"labels"`, each of which holds or not; or `"values"`, which are the
            means of unit Gaussians: a regression, the one score of a ranking, embeddings, hidden states.
        scores: unnormalised; `(batch, n)`, or `(batch, tokens, n)` where every token has its own decision.
        mask: real tokens, `(batch, tokens)` bool, where every token has its own decision; None when all are real.
    """

    kind: str
    scores: Tensor
    mask: Tensor | None = None

    @property
    def rows(self) -> Tensor:
        """The scores of each decision, `(decisions, n)`; padding has none."""
        if self.scores.dim() == 2:
            return self.scores
        return self.scores.flatten(0, 1) if self.mask is None else self.scores[self.mask]

    def probabilities(self) -> Tensor:
        """Of each decision, `(decisions, n)` float64: they sum to 1 over classes; each label has its own.

        Raises:
            ValueError: for values.
        """
        if self.kind == VALUES:
            raise ValueError("values have no probabilities: compare them as numbers")
        rows = self.rows.double()
        return rows.softmax(-1) if self.kind == CLASSES else rows.sigmoid()

    def of_examples(self, values: Tensor) -> Tensor:
        """Sum of a number for each decision, `(batch,)` or `(batch, tokens)`, over the decisions of each example."""
        return values if values.dim() == 1 else (values if self.mask is None else values * self.mask).sum(1)


def decisions_of(
    config: PretrainedConfig, output: Mapping[str, Tensor] | tuple[Tensor, ...], mask: Tensor | None
) -> dict[str, Decisions]:
    """Name to decisions: everything called `*logits`, else the embedding, else the hidden states of a bare model.

    Args:
        config: of the model; its `problem_type` says whether a text has one class, several labels, or numbers.
        output: of the model; a tuple of a bare model holds the hidden states first.
        mask: real tokens, `(batch, tokens)`; None when all are.
    """
    mask = None if mask is None or mask.dim() != 2 else mask.bool()
    names = list(output) if isinstance(output, Mapping) else []
    found = {name: _of_logits(config, name, output[name], mask) for name in names if name.endswith("logits")}
    if found:
        return found
    if EMBEDDING in names:
        return {EMBEDDING: Decisions(VALUES, output[EMBEDDING])}
    return {"hidden": Decisions(VALUES, output[0], mask)}


def kind_of(config: PretrainedConfig, name: str, scores: Tensor) -> str:
    """What logits are: `problem_type` is that of a text; tokens, and the places of a span, are classes to everyone."""
    if name in SPANS:
        return CLASSES
    if scores.dim() == 2 and has_several_labels(config):
        return LABELS
    numbers = scores.dim() == 2 and config.problem_type == "regression"
    return VALUES if numbers or scores.shape[-1] == 1 else CLASSES


def has_several_labels(config: PretrainedConfig) -> bool:
    """Whether a text may have any number of the model's labels."""
    return config.problem_type == "multi_label_classification"


def infer_labels(model: nn.Module, labels: object) -> None:
    """Say in the config that a text may have several labels, where these are numbers of each and it says nothing: what
    transformers does in a pass with labels, and who distils without labels needs too.

    Args:
        labels: of a batch or of a row; None where there are none.
    """
    config = getattr(model, "config", None)
    named = type(model).__name__.endswith("ForSequenceClassification")
    if labels is None or not named or config.problem_type is not None or config.num_labels < 2:
        return
    values = labels if isinstance(labels, Tensor) else np.asarray(labels)
    numbers = values.is_floating_point() if isinstance(values, Tensor) else values.dtype.kind == "f"
    if numbers and tuple(values.shape[-1:]) == (config.num_labels,):
        config.problem_type = "multi_label_classification"


def _of_logits(config: PretrainedConfig, name: str, scores: Tensor, mask: Tensor | None) -> Decisions:
    """No span begins or ends in padding."""
    if name in SPANS and mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return Decisions(kind_of(config, name, scores), scores, mask if scores.dim() == 3 else None)
