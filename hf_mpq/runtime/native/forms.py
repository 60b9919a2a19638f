"""What the kernel has to know of a family beside its layers: data, not code."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    BaseModelOutputWithPooling,
    BaseModelOutputWithPoolingAndCrossAttentions,
    ModelOutput,
)

_BERT_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")


def _first_token(body: nn.Module, hidden: Tensor) -> Tensor | None:
    return None if body.pooler is None else body.pooler(hidden)


def _activated(body: nn.Module, hidden: Tensor) -> Tensor | None:
    return None if body.pooler is None else body.pooler_activation(body.pooler(hidden[:, 0]))


@dataclass(frozen=True)
class Form:
    """One family. Names are relative to its encoder.

    Attributes:
        output: what its encoder gives.
        pool: from the encoder and its hidden states to `pooler_output`; None where it has none.
        norms: of a layer, after attention and after the feed-forward matrices.
        words, positions, types: tables that are added; None where there is none.
        embedding_norm: after that.
        projection: from the width of the tables to that of the layers; need not be there.
        after_padding: positions count what is no padding, from the padding's id on; otherwise columns.
        relative: module whose `compute_position_bias` gives what is added to scores, by distance.
    """

    output: type[ModelOutput]
    pool: Callable[[nn.Module, Tensor], Tensor | None] | None = _first_token
    norms: tuple[str, str] = _BERT_NORMS
    words: str = "embeddings.word_embeddings"
    positions: str = "embeddings.position_embeddings"
    types: str | None = "embeddings.token_type_embeddings"
    embedding_norm: str = "embeddings.LayerNorm"
    projection: str | None = None
    after_padding: bool = False
    relative: str | None = None


_POOLED = BaseModelOutputWithPoolingAndCrossAttentions
FORMS: dict[str, Form] = {
    "bert": Form(_POOLED),
    "roberta": Form(_POOLED, after_padding=True),
    "xlm-roberta": Form(_POOLED, after_padding=True),
    "distilbert": Form(BaseModelOutput, None, ("sa_layer_norm", "output_layer_norm"), types=None),
    "electra": Form(BaseModelOutputWithPastAndCrossAttentions, None, projection="embeddings_project"),
    "albert": Form(
        BaseModelOutputWithPooling,
        _activated,
        ("attention.LayerNorm", "full_layer_layer_norm"),
        projection="encoder.embedding_hidden_mapping_in",
    ),
    "mpnet": Form(
        BaseModelOutputWithPooling,
        norms=("attention.LayerNorm", "output.LayerNorm"),
        types=None,
        after_padding=True,
        relative="encoder",
    ),
}
"""`config.model_type` to form."""
