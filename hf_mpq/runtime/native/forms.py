"""What the kernel has to know of a family beside its layers: data, not code."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PretrainedConfig
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
        norms: of a layer, of attention and of the feed-forward matrices: after what is added, or, with `final_norm`, of
            what they read.
        words, positions, types: tables that are added; None where there is none.
        embedding_norm: after that.
        projection: from the width of the tables to that of the layers; need not be there, as little as a table.
        norm_last: projection comes before normalisation.
        final_norm: after all layers.
        after_padding: positions count what is no padding, from the padding's id on; otherwise columns.
        relative: module whose `compute_position_bias` gives what is added to scores, by distance.
        rotary: module that gives cosines and sines of positions for a kind of layer, which its `attention_type` names.
        disentangled: module whose `rel_embeddings` stand for distances in scores, where `config.relative_attention` is
            set.
        pooler, pooled: the matrix in the pooler, and what its outputs are activated by; they read the first column.
    """

    output: type[ModelOutput]
    pool: Callable[[nn.Module, Tensor], Tensor | None] | None = _first_token
    norms: tuple[str, str] = _BERT_NORMS
    words: str = "embeddings.word_embeddings"
    positions: str | None = "embeddings.position_embeddings"
    types: str | None = "embeddings.token_type_embeddings"
    embedding_norm: str = "embeddings.LayerNorm"
    projection: str | None = None
    norm_last: bool = False
    final_norm: str | None = None
    after_padding: bool = False
    relative: str | None = None
    rotary: str | None = None
    disentangled: str | None = None
    pooler: str = "pooler.dense"
    pooled: str = "pooler.activation"

    def score_terms(self, config: PretrainedConfig) -> int:
        """Products that a score is the sum of."""
        return 1 if self.disentangled is None else 1 + len({"c2p", "p2c"} & set(config.pos_att_type or ()))


_POOLED = BaseModelOutputWithPoolingAndCrossAttentions
FORMS: dict[str, Form] = {
    "bert": Form(_POOLED),
    "roberta": Form(_POOLED, after_padding=True),
    "xlm-roberta": Form(_POOLED, after_padding=True),
    "camembert": Form(_POOLED, after_padding=True),
    "data2vec-text": Form(_POOLED, after_padding=True),
    "ernie": Form(_POOLED),
    "bert-generation": Form(BaseModelOutputWithPastAndCrossAttentions, None, types=None),
    "splinter": Form(BaseModelOutput, None),
    "roberta-prelayernorm": Form(
        _POOLED,
        norms=("attention.LayerNorm", "intermediate.LayerNorm"),
        final_norm="LayerNorm",
        after_padding=True,
    ),
    "distilbert": Form(BaseModelOutput, None, ("sa_layer_norm", "output_layer_norm"), types=None),
    "electra": Form(BaseModelOutputWithPastAndCrossAttentions, None, projection="embeddings_project"),
    "albert": Form(
        BaseModelOutputWithPooling,
        _activated,
        ("attention.LayerNorm", "full_layer_layer_norm"),
        projection="encoder.embedding_hidden_mapping_in",
        pooler="pooler",
        pooled="pooler_activation",
    ),
    "mpnet": Form(
        BaseModelOutputWithPooling,
        norms=("attention.LayerNorm", "output.LayerNorm"),
        types=None,
        after_padding=True,
        relative="encoder",
    ),
    "modernbert": Form(
        BaseModelOutput,
        None,
        ("attn_norm", "mlp_norm"),
        words="embeddings.tok_embeddings",
        positions=None,
        types=None,
        embedding_norm="embeddings.norm",
        final_norm="final_norm",
        rotary="rotary_emb",
    ),
    "deberta-v2": Form(
        BaseModelOutput,
        None,
        projection="embeddings.embed_proj",
        norm_last=True,
        disentangled="encoder",
    ),
}
"""`config.model_type` to form."""
