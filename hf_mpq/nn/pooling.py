"""Sentence embeddings: what a model without a head is used for."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers.utils import ModelOutput

from ..core import unknown
from .running import real_tokens

POOLINGS = ("mean", "cls", "last")
EMBEDDING = "embedding"
"""Name of the pooled output."""


def check_pooling(pooling: str) -> str:
    """The pooling; raises ValueError when it is unknown."""
    if pooling.casefold() not in POOLINGS:
        raise ValueError(unknown("pooling", pooling, POOLINGS))
    return pooling.casefold()


def embed(hidden: Tensor, mask: Tensor | None, pooling: str) -> Tensor:
    """Embeddings of unit length, `(batch, width)` float32, differentiable.

    Args:
        hidden: last hidden states, `(batch, tokens, width)`.
        mask: real tokens, `(batch, tokens)`; None when all are.
        pooling: `"mean"` over the real tokens, `"cls"`, the first token, or `"last"`, the last real one, on whichever
            side the padding is.
    """
    hidden, pooling = hidden.float(), check_pooling(pooling)
    if pooling == "cls":
        pooled = hidden[:, 0]
    elif pooling == "last":
        pooled = hidden[:, -1] if mask is None else hidden[torch.arange(len(hidden)), _last(mask)]
    elif mask is None:
        pooled = hidden.mean(1)
    else:
        real = mask.to(hidden.dtype).unsqueeze(-1)
        pooled = (hidden * real).sum(1) / real.sum(1).clamp(min=1)
    return normalize(pooled, dim=-1)


def _last(mask: Tensor) -> Tensor:
    """Position of the last real token of each row, `(batch,)`."""
    return mask.shape[1] - 1 - mask.flip(1).int().argmax(1)


@contextmanager
def embedding_outputs(model: nn.Module, pooling: str | None) -> Iterator[None]:
    """While this holds, a model without a head answers with `{"embedding": ...}`, its pooled embeddings; None changes
    nothing. Called with keyword arguments only, as batches are.

    Raises:
        ValueError: in forward, when the model has a head.
    """
    if pooling is None:
        yield
        return
    handle = model.register_forward_hook(_pool(check_pooling(pooling)), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _pool(pooling: str):
    def hook(model: nn.Module, args: tuple, kwargs: dict, output: ModelOutput) -> ModelOutput:
        if "last_hidden_state" not in output:
            raise ValueError(
                f"{type(model).__name__} has a head, so there is nothing to pool: leave pooling out, or "
                "load the model with AutoModel"
            )
        return ModelOutput({EMBEDDING: embed(output["last_hidden_state"], real_tokens(kwargs), pooling)})

    return hook
