"""How much a compressed model still says what its teacher says."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..integrations.calibration_batches import batches_of

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
BATCH_SIZE = 32


@dataclass(frozen=True)
class Loyalty:
    """Agreement with a teacher (Xu et al., "Beyond Preserved Accuracy", EMNLP 2021).

    Attributes:
        labels: share of predictions whose most likely class is the teacher's.
        probabilities: mean of 1 - sqrt(JS(P || Q)) over predictions, with the Jensen-Shannon divergence in bits, so
            that it lies between 0 and 1.
        predictions: compared: rows; tokens of a tagger; starts and ends of answers.
    """

    labels: float
    probabilities: float
    predictions: int


def loyalty(
    model: nn.Module, teacher: nn.Module, data: Iterable, max_examples: int = 1000, batch_size: int = BATCH_SIZE
) -> Loyalty:
    """Compare the class probabilities of two models on the same inputs; no labels are needed.

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
    same, similar, count = 0.0, 0.0, 0
    for batch in batches:
        for own, other in zip(_probabilities(model, batch), _probabilities(teacher, batch), strict=True):
            if own.shape != other.shape:
                raise ValueError(f"the teacher tells {other.shape[1]} classes apart and the model {own.shape[1]}: give "
                                 "the model that this one was made of")  # fmt: skip
            same += float((own.argmax(1) == other.argmax(1)).sum())
            similar += float((1 - divergence(own, other).sqrt()).sum())
            count += len(own)
    return Loyalty(same / count, similar / count, count)


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon divergence in bits of probabilities `(predictions, classes)`: `(predictions,)` from 0 to 1."""
    middle = (first + second) / 2
    terms = (torch.special.xlogy(one, one) - torch.special.xlogy(one, middle) for one in (first, second))
    return (sum(term.sum(1) for term in terms) / 2 / torch.tensor(2.0).log()).clamp(0, 1)


@torch.inference_mode()
def _probabilities(model: nn.Module, batch: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Class probabilities of each output with scores, `(predictions, classes)` float64; padding is left out."""
    inputs = {name: batch[name].to(model.device) for name in INPUTS if name in batch}
    outputs = model.eval()(**inputs)
    scores = {name: value for name, value in outputs.items() if name.endswith("logits")}
    if not scores or any(value.shape[-1] == 1 for value in scores.values()):
        raise ValueError(f"{type(model).__name__} gives no class scores, so there are no labels to be loyal to")
    real = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    for name, value in scores.items():
        value = value.double()
        if value.dim() == 3:
            value = value[real]
        elif name != "logits":  # a score of each token: the classes are places
            value = value.masked_fill(~real, -torch.inf)
        yield value.softmax(-1).cpu()
