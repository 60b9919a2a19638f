"""How near a compressed embedder's embeddings are to its teacher's."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ...core.inputs import INPUTS
from ...nn.batches import batches_of
from ...nn.pooling import EMBEDDING, embedding_outputs
from .loyalty import BATCH_SIZE


def embedding_similarity(
    model: nn.Module,
    teacher: nn.Module,
    data: Iterable,
    pooling: str = "mean",
    max_examples: int = 1000,
    batch_size: int = BATCH_SIZE,
) -> float:
    """Mean cosine of the embeddings of two models without heads for the same inputs: 1 when they agree.

    Args:
        model, teacher: put in eval mode.
        data: tokenized rows, or batches of tensors.
        pooling: `"mean"`, `"cls"` or `"last"`.
        max_examples: rows (or batches) that are used, from the start.
        batch_size: of the batches made from rows.

    Raises:
        ValueError: without data, or when a model has a head.
    """
    batches = batches_of(data, model, batch_size, max_examples)
    if not batches:
        raise ValueError("similarity needs some inputs: give tokenized rows or batches")
    own, other = (_embeddings(one, batches, pooling) for one in (model, teacher))
    return float((own * other).sum(1).mean())


@torch.inference_mode()
def _embeddings(model: nn.Module, batches: list[Mapping], pooling: str) -> Tensor:
    """Of unit length, `(rows, width)`."""
    with embedding_outputs(model.eval(), pooling):
        inputs = ({name: batch[name].to(model.device) for name in INPUTS if name in batch} for batch in batches)
        return torch.cat([model(**one)[EMBEDDING].cpu() for one in inputs])
