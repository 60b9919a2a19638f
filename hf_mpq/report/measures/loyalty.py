"""How much a compressed model still says what its teacher says."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...core.inputs import INPUTS
from ...nn.batches import batches_of
from ...nn.heads import CLASSES, VALUES, Decisions, decisions_of

BATCH_SIZE = 32


@dataclass(frozen=True)
class Loyalty:
    """Agreement with a teacher (Xu et al., "Beyond Preserved Accuracy", EMNLP 2021).

    Attributes:
        labels: share of predictions that are the teacher's: the most likely class; of several labels at once, all that
            are more likely than not. A prediction that is not finite is not the teacher's.
        probabilities: mean of 1 - sqrt(JS(P || Q)) over predictions, with the Jensen-Shannon divergence in bits, so
            that it lies between 0 and 1; of several labels at once, that of the label which differs most.
        predictions: compared: rows; tokens of a tagger; starts and ends of answers.
    """

    labels: float
    probabilities: float
    predictions: int


def loyalty(
    model: nn.Module, teacher: nn.Module, data: Iterable, max_examples: int = 1000, batch_size: int = BATCH_SIZE
) -> Loyalty:
    """Compare the probabilities of two models on the same inputs; no labels are needed.

    Args:
        model, teacher: with the same head; put in eval mode.
        data: tokenized rows, or batches of tensors.
        max_examples: rows (or batches) that are used, from the start.
        batch_size: of the batches made from rows.

    Raises:
        ValueError: without data, or when the models give no class scores (no head, or regression).
    """
    batches = batches_of(data, model, batch_size, max_examples)
    if not batches:
        raise ValueError("loyalty needs some inputs: give tokenized rows or batches")
    sides = ((_decisions(model, batch), _decisions(teacher, batch)) for batch in batches)
    return loyalty_of(pair for both in sides for pair in zip(*both, strict=True))


def loyalty_of(pairs: Iterable[tuple[Decisions, Decisions]]) -> Loyalty:
    """Loyalty of decisions of a model to those of its teacher for the same inputs.

    Raises:
        ValueError: when they are of different heads.
    """
    same, close = [], []
    for own, other in pairs:
        _check_heads(own, other)
        same.append(_same(own, other).double().cpu())
        close.append(_closeness(own, other).cpu())
    return Loyalty(float(torch.cat(same).mean()), float(torch.cat(close).mean()), sum(map(len, same)))


def _check_heads(own: Decisions, other: Decisions) -> None:
    if (own.kind, own.scores.shape[-1]) != (other.kind, other.scores.shape[-1]):
        raise ValueError(
            f"the teacher tells {other.scores.shape[-1]} {other.kind} apart and the model "
            f"{own.scores.shape[-1]} {own.kind}: give the model that this one was made of"
        )


def _same(own: Decisions, other: Decisions) -> Tensor:
    """Whether each decision is the same, `(decisions,)` bool."""
    first, second = own.rows, other.rows
    finite = first.isfinite().all(-1) & second.isfinite().all(-1)
    if own.kind == CLASSES:
        return finite & (first.argmax(-1) == second.argmax(-1))
    return finite & ((first > 0) == (second > 0)).all(-1)


def _closeness(own: Decisions, other: Decisions) -> Tensor:
    """`1 - sqrt(JS)` of each decision, `(decisions,)`."""
    first, second = own.probabilities(), other.probabilities()
    if own.kind == CLASSES:
        return 1 - jensen_shannon(first, second).sqrt()
    first, second = (torch.stack([one, 1 - one], -1) for one in (first, second))
    return (1 - jensen_shannon(first, second).sqrt()).amin(-1)


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon divergence in bits of probabilities `(..., classes)`: `(...)` from 0 to 1."""
    middle = (first + second) / 2
    terms = (torch.special.xlogy(one, one) - torch.special.xlogy(one, middle) for one in (first, second))
    return (sum(term.sum(-1) for term in terms) / 2 / torch.tensor(2.0).log()).clamp(0, 1)


@torch.inference_mode()
def _decisions(model: nn.Module, batch: Mapping[str, Tensor]) -> list[Decisions]:
    """Each output with scores; padding is left out."""
    inputs = {name: batch[name].to(model.device) for name in INPUTS if name in batch}
    found = list(decisions_of(model.config, model.eval()(**inputs), inputs.get("attention_mask")).values())
    if any(one.kind == VALUES for one in found):
        raise ValueError(f"{type(model).__name__} gives no class scores, so there are no labels to be loyal to")
    return found
